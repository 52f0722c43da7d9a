// Package image serves ImageService: uploads to the nodes that keep the copies, reading, deleting.
package image

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Config is what the service needs.
type Config struct {
	Cache   *state.Cache
	Runner  *request.Runner
	Tunnels func() seam.Tunnels // nil until the process has them
	Now     func() time.Time
	Log     *slog.Logger
}

// Service implements storagev1connect.ImageServiceHandler.
type Service struct {
	cfg Config
	// carried are the ids of images whose upload is under way here.
	carried sync.Map
}

var _ storagev1connect.ImageServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Uploading reports whether the upload of an image is under way in this process.
func (s *Service) Uploading(id string) bool {
	_, ok := s.carried.Load(id)
	return ok
}

func (s *Service) find(id, project string) (*state.Row, error) {
	if row := s.cfg.Cache.Resolve(state.KindImage, domain.Project(project), id); row != nil {
		return row, nil
	}
	return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "there is no image %q in project %q", id, domain.Project(project)).
		WithRemedy("list images to see which there are")
}

func view(row *state.Row) *storagev1.Image {
	img := row.Image().GetImage()
	img.Meta.Etag = domain.Etag(row.Revision)
	return img
}

// GetImage reads an image.
func (s *Service) GetImage(_ context.Context, req *connect.Request[storagev1.GetImageRequest]) (*connect.Response[storagev1.GetImageResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&storagev1.GetImageResponse{Image: view(row)}), nil
}

// ListImages answers a page.
func (s *Service) ListImages(_ context.Context, req *connect.Request[storagev1.ListImagesRequest]) (*connect.Response[storagev1.ListImagesResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindImage, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	if p := m.GetPool(); p != "" {
		if row := s.cfg.Cache.Resolve(state.KindPool, domain.Project(m.GetProjectId()), p); row != nil {
			q.Pool = row.ID
		} else {
			v.Add("pool", "there is no pool %q", p)
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	if a := m.GetAlias(); a != "" {
		q.Keep = func(r *state.Row) bool { return r.Name == a || slices.Contains(r.Refs, a) }
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &storagev1.ListImagesResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Images = append(resp.Images, view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}
