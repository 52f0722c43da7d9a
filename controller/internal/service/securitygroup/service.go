package securitygroup

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Now    func() time.Time
}

// Service implements networkv1connect.SecurityGroupServiceHandler.
type Service struct{ cfg Config }

var _ networkv1connect.SecurityGroupServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// find is the row of the group that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		return nil, fault.Invalid(fault.Violation{Field: "id", Description: "is required: a security group's id or name"})
	}
	row := s.cfg.Cache.Resolve(state.KindSecurityGroup, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no security group %q in project %q", id, domain.Project(project)).
			WithRemedy("list security groups to see which there are")
	}
	return row, nil
}

// view is a group as clients see it: with what is so by the word of its ports' nodes. Revision 0 leaves the etag to whoever commits.
func (s *Service) view(rec *statev1.SecurityGroupRecord, revision int64) *networkv1.SecurityGroup {
	rec = proto.CloneOf(rec)
	g := rec.GetSecurityGroup()
	if g.Meta.Etag = ""; revision > 0 {
		g.Meta.Etag = domain.Etag(revision)
	}
	domain.SettleSecurityGroup(rec, slices.Collect(s.cfg.Cache.GroupMembers(g.GetMeta().GetId())), s.referring(g.GetMeta().GetId()))
	return g
}

// referring are the groups whose rules refer to one, ordered by id.
func (s *Service) referring(id string) []string {
	var out []string
	for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindSecurityGroup, Ref: state.RefSecurityGroup(id)}).Rows {
		out = append(out, r.ID)
	}
	return out
}

// GetSecurityGroup reads a group.
func (s *Service) GetSecurityGroup(_ context.Context, req *connect.Request[networkv1.GetSecurityGroupRequest]) (*connect.Response[networkv1.GetSecurityGroupResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetSecurityGroupResponse{SecurityGroup: s.view(row.SecurityGroup(), row.Revision)}), nil
}

// ListSecurityGroups answers a page.
func (s *Service) ListSecurityGroups(_ context.Context, req *connect.Request[networkv1.ListSecurityGroupsRequest]) (*connect.Response[networkv1.ListSecurityGroupsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindSecurityGroup, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	if m.GetPort() != "" {
		port := s.cfg.Cache.Row(state.KindPort, m.GetPort())
		if port == nil {
			v.Add("port", "there is no port with id %q", m.GetPort())
		} else {
			q.Keep = func(r *state.Row) bool { return slices.Contains(port.Refs, state.RefSecurityGroup(r.ID)) }
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &networkv1.ListSecurityGroupsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.SecurityGroups = append(resp.SecurityGroups, s.view(row.SecurityGroup(), row.Revision))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}
