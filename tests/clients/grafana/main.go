// Reads a Grafana dashboard by the types that Grafana generates from its schemas: go run . FILE
//
// Prints what is no field of the dashboard, of a panel of its kind or of a query, what has another
// type, and what breaks a rule of the schema.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	log.SetFlags(0)
	text, err := os.ReadFile(os.Args[1])
	endIf(err)
	kinds := cog.NewRuntime() // of panels and queries; to compile all that there are takes a minute
	kinds.RegisterPanelcfgVariant(stat.VariantConfig())
	kinds.RegisterPanelcfgVariant(timeseries.VariantConfig())
	kinds.RegisterDataqueryVariant(prometheus.VariantConfig())
	var strict, board dashboard.Dashboard
	endIf(strict.UnmarshalJSONStrict(text))
	endIf(json.Unmarshal(text, &board)) // again, for the strict one leaves out what it took as faulty
	endIf(board.Validate())
	fmt.Printf("%d panels\n", len(board.Panels))
}

func endIf(err error) {
	if err != nil && err.Error() != "" { // an empty list of errors is no error
		log.Fatal(err)
	}
}
