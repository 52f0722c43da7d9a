package port

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

// CreatePort accepts a port in one commit: the port, its name, its addresses, and the project's default network and group where it is the first that needs them.
func (s *Service) CreatePort(ctx context.Context, req *connect.Request[networkv1.CreatePortRequest]) (*connect.Response[networkv1.CreatePortResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetPort()
	port := NewPort(given.GetMeta(), given.GetSpec(), given.GetMeta().GetProjectId(), now)
	var v domain.Violations
	domain.ValidatePort(&v, port)
	if err := v.Err(); err != nil {
		return nil, err
	}
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.PortServiceCreatePortProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.CreatePortResponse], error) {
		port := proto.CloneOf(port) // every try fills in its own
		meta := port.GetMeta()
		nameKey := state.NameKey(meta.GetProjectId(), state.KindPort, meta.GetName())
		if other := s.cfg.Cache.Holder(nameKey); other != "" {
			return nil, nameTaken(meta, other)
		}
		var w state.Writer
		rec, err := NewMaker(s.cfg.Cache, &w, meta.GetProjectId(), now).Make(FieldsOf("port.spec"), port, "")
		if err != nil {
			return nil, err
		}
		w.PutText(nameKey, meta.GetId())
		w.Require(store.KeyAbsent(nameKey))
		op := s.write(&w, rec, domain.VerbCreatePort)
		txn, err := w.Txn()
		return &request.Plan[*networkv1.CreatePortResponse]{
			Txn: txn, Response: &networkv1.CreatePortResponse{Port: proto.CloneOf(rec.GetPort()), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
			Refused: func(c store.Check) error {
				if c.Condition.Key == nameKey && c.Current != nil {
					return nameTaken(meta, string(c.Current.Value))
				}
				return nil // an address that somebody else took meanwhile: another try chooses another
			},
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a port named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that port").WithMetadata("id", other)
}
