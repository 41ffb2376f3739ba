// Sends clicks of one user, and prints the recommendation that answers each of them; then does the
// same over HTTP, and asks for the list of a history.
//
//	go run . -brokers localhost:9092 -user alice 1 2 3
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

//go:generate go run github.com/atombender/go-jsonschema@v0.24.1 -p main --tags json --only-models --struct-name-from-title -o types.go ../../docs/schemas/click.json ../../docs/schemas/recommendation.json

func main() {
	brokers := flag.String("brokers", "localhost:9092", "host:port of a broker")
	clicks := flag.String("clicks", "clicks", "topic of clicks")
	answers := flag.String("recommendations", "recommendations", "topic of recommendations")
	user := flag.String("user", "alice", "who clicks")
	api := flag.String("api", "", "URL of `nextclick api`; empty = do not ask it")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(*brokers),
		// Idempotent, acks=all and murmur2 of the key are franz-go's defaults.
		kgo.DefaultProduceTopic(*clicks),
		kgo.ConsumeTopics(*answers),
		// A minute earlier: the worker's clock may be behind ours.
		kgo.ConsumeStartOffset(kgo.NewOffset().AfterMilli(time.Now().Add(-time.Minute).UnixMilli())),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	open, err := send(ctx, client, *user, flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	if err := readAnswers(ctx, client, open); err != nil {
		log.Fatal(err)
	}
	if *api != "" {
		if err := clickOverHTTP(ctx, *api, *user, flag.Arg(flag.NArg()-1)); err != nil {
			log.Fatal(err)
		}
		if err := ask(ctx, *api, flag.Args()); err != nil {
			log.Fatal(err)
		}
	}
}

// answerKey is what an answer is known by: a second one with the same key is a repetition.
type answerKey struct{ userID, eventID string }

func newClick(user, item string) Click {
	return Click{
		EventId:   rand.Text(), // keep it for a retry of your own: a click counts once by it
		UserId:    user,
		ItemId:    item,
		Timestamp: int(time.Now().UnixMilli()),
		EventType: "click",
	}
}

// send produces a click on each item, and returns when Kafka has them all.
func send(ctx context.Context, client *kgo.Client, user string, items []string) (map[answerKey]string, error) {
	sent := make(map[answerKey]string)
	for _, item := range items {
		click := newClick(user, item)
		value, err := json.Marshal(click)
		if err != nil {
			return nil, err
		}
		record := &kgo.Record{Key: []byte(user), Value: value}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return nil, err
		}
		sent[answerKey{user, click.EventId}] = item
	}
	return sent, nil
}

// readAnswers prints the answer to each of the clicks once.
func readAnswers(ctx context.Context, client *kgo.Client, open map[answerKey]string) error {
	for len(open) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		var bad error
		fetches.EachRecord(func(record *kgo.Record) {
			var answer Recommendation
			if err := json.Unmarshal(record.Value, &answer); err != nil {
				bad = fmt.Errorf("partition %d, offset %d: %w", record.Partition, record.Offset, err)
				return
			}
			key := answerKey{answer.UserId, answer.EventId}
			item, ours := open[key]
			if !ours { // somebody else's, or a repetition
				return
			}
			delete(open, key)
			fmt.Printf("after %s: %s\n", item, ids(answer.Items))
		})
		if bad != nil {
			return bad
		}
	}
	return nil
}

type recommendations struct {
	Items []ScoredItem `json:"items"`
}

// clickOverHTTP publishes a click, and prints the list for the history that it ends.
func clickOverHTTP(ctx context.Context, api, user, item string) error {
	var accepted struct {
		Recommendations *recommendations `json:"recommendations"`
	}
	if err := post(ctx, api+"/clicks?recommend=true&k=3", newClick(user, item), &accepted); err != nil {
		return err
	}
	if accepted.Recommendations == nil {
		return errors.New("the click is published, but there is no list now")
	}
	fmt.Printf("after %s over HTTP: %s\n", item, ids(accepted.Recommendations.Items))
	return nil
}

// ask prints the list for a history that comes with the request.
func ask(ctx context.Context, api string, history []string) error {
	var list recommendations
	if err := post(ctx, api+"/recommendations", map[string]any{"history": history, "k": 3}, &list); err != nil {
		return err
	}
	fmt.Printf("for the history: %s\n", ids(list.Items))
	return nil
}

// post sends body as JSON, and decodes what is answered.
func post(ctx context.Context, url string, body, answer any) error {
	sent, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("NEXTCLICK_API__KEY"); key != "" {
		request.Header.Set("X-API-Key", key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

func ids(items []ScoredItem) []string {
	found := make([]string, len(items))
	for i, item := range items {
		found[i] = item.ItemId
	}
	return found
}
