package together_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// eachStore runs a test on memory and on etcd.
func eachStore(t *testing.T, test func(t *testing.T, s store.Store)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, newStore(t))
	})
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		s, err := etcd.OpenEmbedded(context.Background(), etcd.EmbeddedConfig{Common: etcd.Common{Logger: slog.New(slog.DiscardHandler)}, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		test(t, s)
	})
}

// counting counts the transactions that are tried.
type counting struct {
	store.Store
	tried atomic.Int64
}

func (c *counting) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	c.tried.Add(int64(len(txns)))
	return c.Store.Commit(ctx, txns)
}

// 64 claims at once, by ports and by VMs, never get one address twice, each gets one, and few have to try again; the first ones make the default network, once.
func TestClaimsAtOnce(t *testing.T) {
	t.Parallel()
	const claims = 64
	eachStore(t, func(t *testing.T, s store.Store) {
		counted := &counting{Store: s}
		r := newRig(t, counted)
		r.mustNetwork("dual", "10.2.0.0/22", "fd00:2::/64")
		r.mustPort("first", &networkv1.PortSpec{NetworkId: "dual"}) // the project has its default group
		before := counted.tried.Load()
		seen := r.claim(t, claims, func(i int) ([]string, error) {
			resp, err := r.createPort(fmt.Sprintf("p%d", i), &networkv1.PortSpec{NetworkId: "dual"})
			return resp.GetPort().GetStatus().GetIpAddresses(), err
		})
		if len(seen) != 2*claims {
			t.Errorf("%d addresses for %d ports of two families", len(seen), claims)
		}
		if tries := counted.tried.Load() - before; tries > claims*3/2 {
			t.Errorf("%d transactions for %d claims", tries, claims)
		}
		seen = r.claim(t, claims, func(i int) ([]string, error) {
			resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{
				Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("v%d", i)}, Spec: &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("eth0", &computev1.NetworkAttachment{})}},
			}})
			if err != nil {
				return nil, err
			}
			return resp.GetVm().GetStatus().GetNics()[0].GetIpAddresses(), nil
		})
		if len(seen) != claims || r.Cache.Count(state.Query{Kind: state.KindNetwork}) != 2 || r.Cache.Count(state.Query{Kind: state.KindSecurityGroup}) != 1 {
			t.Errorf("%d addresses, %d networks, %d groups", len(seen), r.Cache.Count(state.Query{Kind: state.KindNetwork}), r.Cache.Count(state.Query{Kind: state.KindSecurityGroup}))
		}
		for a := range seen {
			ip := netip.MustParseAddr(a)
			if !netip.MustParsePrefix("10.64.0.0/22").Contains(ip) || a == "10.64.0.0" || a == "10.64.0.1" || a == "10.64.3.255" {
				t.Errorf("address %s was given out", a)
			}
		}
	})
}

// claim runs claims at once and returns the addresses that they got, none of which may come twice.
func (r *rig) claim(t *testing.T, n int, one func(i int) ([]string, error)) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[string]bool{}
	for i := range n {
		all.Go(func() {
			got, err := one(i)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			for _, a := range got {
				if seen[a] {
					t.Errorf("address %s was leased twice", a)
				}
				seen[a] = true
			}
		})
	}
	all.Wait()
	return seen
}

// More claims than there are addresses: exactly those that there are get one, and the others hear that none is left.
func TestClaimsOfTheLast(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s store.Store) {
		r := newRig(t, s)
		r.mustNetwork("small", "10.3.0.0/28") // 13 for ports: 16 less network, broadcast and gateway
		var got, refused atomic.Int64
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				_, err := r.createPort(fmt.Sprintf("p%d", i), &networkv1.PortSpec{NetworkId: "small"})
				switch {
				case err == nil:
					got.Add(1)
				case fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got.Load() != 13 || refused.Load() != 7 {
			t.Errorf("%d got one, %d were refused", got.Load(), refused.Load())
		}
		if st := r.network("small").GetStatus().GetSubnets()[0]; st.GetUsedAddresses() != 13 || st.GetFreeAddresses() != 0 {
			t.Errorf("use is %v", st)
		}
	})
}

// Of networks that overlap and are made at once in a project, one stays; in other projects that does not matter.
func TestOverlapAtOnce(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, s store.Store) {
		r := newRig(t, s)
		var made atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				cidr := []string{"10.4.0.0/16", "10.4.7.0/24"}[i%2]
				_, err := r.createNetwork(fmt.Sprintf("n%d", i), &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{{Cidr: cidr}}})
				switch {
				case err == nil:
					made.Add(1)
				default:
					wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "network.spec.subnets[0].cidr")
				}
			})
		}
		all.Wait()
		nets := r.Cache.Find(state.Query{Kind: state.KindNetwork}).Rows
		if int(made.Load()) != len(nets) || made.Load() != 1 && nets[0].Network().GetNetwork().GetSpec().GetSubnets()[0].GetCidr() == "10.4.0.0/16" {
			t.Errorf("%d were made, %d are there", made.Load(), len(nets))
		}
		for i, a := range nets {
			for _, b := range nets[:i] {
				if x, y := a.Network().GetNetwork().GetSpec().GetSubnets()[0].GetCidr(), b.Network().GetNetwork().GetSpec().GetSubnets()[0].GetCidr(); netip.MustParsePrefix(x).Overlaps(netip.MustParsePrefix(y)) {
					t.Errorf("%s and %s overlap", x, y)
				}
			}
		}
	})
}
