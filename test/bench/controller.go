package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/test/stack"
)

const (
	population = 10_000
	clients    = 64
	reads      = 200
	rounds     = 3
)

// token puts the admin token on every call.
type token string

// RoundTrip implements http.RoundTripper.
func (t token) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(t))
	return transport.RoundTrip(r)
}

var transport = func() *http.Transport {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &p, MaxIdleConnsPerHost: clients}
}()

func vmClient(s *stack.Stack) (computev1connect.VMServiceClient, computev1connect.NodeServiceClient, error) {
	b, err := os.ReadFile(s.TokenFile())
	if err != nil {
		return nil, nil, err
	}
	h := &http.Client{Transport: token(strings.TrimSpace(string(b)))}
	return computev1connect.NewVMServiceClient(h, s.Server, connect.WithGRPC()), computev1connect.NewNodeServiceClient(h, s.Server, connect.WithGRPC()), nil
}

// controllerAlone measures the API with 10,000 VMs that fit nowhere, and a lone fake agent at the end.
func controllerAlone(ctx context.Context, bin string, got samples) error {
	dir, err := os.MkdirTemp("", "lqb")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := stack.StartControllerOnly(ctx, stack.Options{Dir: dir, Bin: bin})
	if err != nil {
		return err
	}
	defer func() { _ = s.Stop() }()
	vms, nodes, err := vmClient(s)
	if err != nil {
		return err
	}
	if err := createToStream(ctx, s, vms, nodes, got); err != nil {
		return err
	}
	for round := range rounds {
		if err := createMany(ctx, vms, round, got); err != nil {
			return err
		}
	}
	return readMany(ctx, vms, got)
}

func vmFor(name string, labels map[string]string) *computev1.VM {
	return &computev1.VM{Meta: &metav1.ObjectMeta{Name: name, Labels: labels}, Spec: &computev1.VMSpec{
		Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: 1 << 30, Placement: &computev1.Placement{NodeSelector: map[string]string{"nowhere": "yes"}},
		Disks: []*computev1.Disk{{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 30}}}},
	}}
}

func createMany(ctx context.Context, vms computev1connect.VMServiceClient, round int, got samples) error {
	var next, failed atomic.Int64
	var first atomic.Value
	count := int64(population / rounds)
	if round == 0 {
		count += population % rounds
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= count; i = next.Add(1) {
				labels := map[string]string{"all": "yes"}
				if i%100 == 0 {
					labels["rare"] = "yes"
				}
				_, err := vms.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: vmFor(fmt.Sprintf("vm-%d-%d", round, i), labels)}))
				if err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		return fmt.Errorf("%d creates failed: %v", failed.Load(), first.Load())
	}
	got.add("create_vm_per_second", float64(count)/time.Since(began).Seconds())
	return nil
}

func readMany(ctx context.Context, vms computev1connect.VMServiceClient, got samples) error {
	var tokens []string
	var ids []string
	for page := ""; ; {
		r, err := vms.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{PageSize: 50, PageToken: page}))
		if err != nil {
			return err
		}
		tokens = append(tokens, page)
		for _, v := range r.Msg.GetVms() {
			ids = append(ids, v.GetMeta().GetId())
		}
		if page = r.Msg.GetNextPageToken(); page == "" {
			break
		}
	}
	if len(ids) < population {
		return fmt.Errorf("a walk found %d VMs of %d", len(ids), population)
	}
	for range rounds {
		for name, req := range map[string]*computev1.ListVMsRequest{
			"list_first_page_ms": {PageSize: 50}, "list_middle_page_ms": {PageSize: 50, PageToken: tokens[len(tokens)/2]},
			"list_last_page_ms": {PageSize: 50, PageToken: tokens[len(tokens)-1]}, "list_label_page_ms": {PageSize: 50, LabelSelector: "rare=yes"},
		} {
			m, err := median(reads, func(int) error {
				_, err := vms.ListVMs(ctx, connect.NewRequest(req))
				return err
			})
			if err != nil {
				return err
			}
			got.add(name, m)
		}
		m, err := median(5*reads, func(i int) error {
			_, err := vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: ids[i*7919%len(ids)]}))
			return err
		})
		if err != nil {
			return err
		}
		got.add("get_vm_p50_ms", m)
	}
	return nil
}

// median runs fn n times and returns the median of its times in milliseconds.
func median(n int, fn func(i int) error) (float64, error) {
	times := make([]float64, n)
	for i := range n {
		began := time.Now()
		if err := fn(i); err != nil {
			return 0, err
		}
		times[i] = float64(time.Since(began).Microseconds()) / 1000
	}
	slices.Sort(times)
	return times[n/2], nil
}
