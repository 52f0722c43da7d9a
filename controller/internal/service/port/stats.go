package port

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// GetPortStats reads a port's counters as its node told them last. The leader alone is told.
func (s *Service) GetPortStats(_ context.Context, req *connect.Request[networkv1.GetPortStatsRequest]) (*connect.Response[networkv1.GetPortStatsResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	b := row.Port().GetPort().GetStatus().GetBinding()
	if b.GetNodeId() == "" {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "port %s (%s) is on no node", row.Name, row.ID).WithRemedy("give it to a VM that runs")
	}
	told := s.cfg.Nodes.PortStats(b.GetNodeId(), row.ID)
	st := told.GetStats()
	return connect.NewResponse(&networkv1.GetPortStatsResponse{
		ReceiveBytes: st.GetReceiveBytes(), ReceivePackets: st.GetReceivePackets(), ReceiveDropped: st.GetReceiveDropped(),
		TransmitBytes: st.GetTransmitBytes(), TransmitPackets: st.GetTransmitPackets(), TransmitDropped: st.GetTransmitDropped(),
		IngressDeniedPackets: st.GetIngressDeniedPackets(), EgressDeniedPackets: st.GetEgressDeniedPackets(), SpoofedPackets: st.GetSpoofedPackets(),
		ObserveTime: told.GetObserveTime(),
	}), nil
}
