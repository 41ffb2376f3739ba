// Asks KEDA's Kafka scaler for its metric: build/keda METADATA, the trigger's metadata in JSON.
//
// KEDA's package of scalers imports the clients of some seventy systems. The test copies the two files
// that are needed, unchanged, from KEDA's module to build/scalers.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
	v2 "k8s.io/api/autoscaling/v2"
	"nextclick.example/keda/build/scalers"
)

// What KEDA tells the HorizontalPodAutoscaler: replicas are metric / target, rounded up.
type answer struct {
	Metric int64 `json:"metric"`
	Target int64 `json:"target"`
	Active bool  `json:"active"`
}

func main() {
	log.SetFlags(0)
	config := scalersconfig.ScalerConfig{TriggerType: "kafka", MetricType: v2.AverageValueMetricType}
	endIf(json.Unmarshal([]byte(os.Args[1]), &config.TriggerMetadata))
	ctx := context.Background()
	scaler, err := scalers.NewKafkaScaler(ctx, &config)
	endIf(err)
	defer scaler.Close(ctx)
	spec := scaler.GetMetricSpecForScaling(ctx)[0].External
	metrics, active, err := scaler.GetMetricsAndActivity(ctx, spec.Metric.Name)
	endIf(err)
	found := answer{metrics[0].Value.Value(), spec.Target.AverageValue.Value(), active}
	endIf(json.NewEncoder(os.Stdout).Encode(found))
}

func endIf(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
