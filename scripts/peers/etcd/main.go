// Puts from so many clients, each waiting for its answer; prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func main() {
	endpoints := flag.String("endpoints", "", "host:port of the members")
	clients := flag.Int("clients", 1, "clients at the same time")
	seconds := flag.Int("seconds", 5, "how long")
	flag.Parse()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(*endpoints, ","),
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer client.Close()
	value := strings.Repeat("abcdefghijklmnop", 13)[:200]
	var next atomic.Int64
	end := time.Now().Add(time.Duration(*seconds) * time.Second)
	started := time.Now()
	latencies := make([][]time.Duration, *clients)
	var all sync.WaitGroup
	for nth := range *clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				before := time.Now()
				key := fmt.Sprintf("row/%016d", next.Add(1))
				if _, err := client.Put(context.Background(), key, value); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(2)
				}
				latencies[nth] = append(latencies[nth], time.Since(before))
			}
		}()
	}
	all.Wait()
	elapsed := time.Since(started).Seconds()
	var sorted []time.Duration
	for _, some := range latencies {
		sorted = append(sorted, some...)
	}
	sort.Slice(sorted, func(a, b int) bool { return sorted[a] < sorted[b] })
	at := func(percent int) float64 {
		return float64(sorted[min(len(sorted)*percent/100, len(sorted)-1)].Nanoseconds()) / 1e3
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"writes_per_second": float64(len(sorted)) / elapsed, "p50_us": at(50), "p99_us": at(99),
	})
}
