package driver

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/link"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// GetNetworkStats reads all devices' counters and all counters of the second layer, in two questions to the kernel.
func (d *Driver) GetNetworkStats(ctx context.Context, req *driverv1.GetNetworkStatsRequest) (*driverv1.GetNetworkStatsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	devices, err := link.Counters(name.TapPrefix)
	if err != nil {
		return nil, failed("counters", err)
	}
	denied, err := d.denied(ctx)
	if err != nil {
		return nil, err
	}
	r := &driverv1.GetNetworkStatsResponse{ObserveTime: timestamppb.Now()}
	for _, id := range d.interfaceIDs("") {
		if len(req.GetInterfaceIds()) > 0 && !slices.Contains(req.GetInterfaceIds(), id) {
			continue
		}
		key, c := name.Key(id), devices[name.Tap(id)]
		r.Interfaces = append(r.Interfaces, &driverv1.NetworkInterfaceStats{ // the guest receives what its device sends
			InterfaceId: id, NetworkId: d.state.Interfaces[id].GetSpec().GetNetworkId(),
			ReceiveBytes: c.TxBytes, ReceivePackets: c.TxPackets, ReceiveDropped: c.TxDropped,
			TransmitBytes: c.RxBytes, TransmitPackets: c.RxPackets, TransmitDropped: c.RxDropped,
			IngressDeniedPackets: denied["in-"+key], EgressDeniedPackets: denied["out-"+key], SpoofedPackets: denied["spoofed-"+key],
		})
	}
	return r, nil
}

// denied are the counters of the second layer, by name.
func (d *Driver) denied(ctx context.Context) (map[string]uint64, error) {
	out, err := d.kernel.Run(ctx, "", "nft", "-j", "list", "counters", "table", "bridge", filter.Table)
	if err != nil {
		if strings.Contains(err.Error(), "No such file") {
			return nil, nil
		}
		return nil, err
	}
	var listed struct {
		Objects []struct {
			Counter *struct {
				Name    string `json:"name"`
				Packets uint64 `json:"packets"`
			} `json:"counter"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return nil, failed("counters", err)
	}
	m := map[string]uint64{}
	for _, o := range listed.Objects {
		if o.Counter != nil {
			m[o.Counter.Name] = o.Counter.Packets
		}
	}
	return m, nil
}
