package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// maxPart bounds one message of content.
const maxPart = 1 << 20

// uploadStream is what UploadImage needs of its stream.
type uploadStream interface {
	Receive() bool
	Msg() *storagev1.UploadImageRequest
	Err() error
}

// UploadImage stores a stream as copies on nodes. It checks length and checksum as the bytes pass; the nodes check the content. When the stream
// breaks, or no node could keep it, nothing is left.
func (s *Service) UploadImage(ctx context.Context, stream *connect.ClientStream[storagev1.UploadImageRequest]) (*connect.Response[storagev1.UploadImageResponse], error) {
	resp, err := s.upload(ctx, stream)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) upload(ctx context.Context, stream uploadStream) (*storagev1.UploadImageResponse, error) {
	header, err := readHeader(stream)
	if err != nil {
		return nil, err
	}
	if resp, err := s.repeated(ctx, header); resp != nil || err != nil {
		return resp, err
	}
	to, err := s.targets(header.GetProjectId(), header.GetPool(), header.GetNodeIds(), "header.pool", "header.node_ids")
	if err != nil {
		return nil, err
	}
	up := s.newUpload(header, to)
	s.carried.Store(up.id, nil) // until we know how it ended, or give up: then the leader's loop deletes what is left of it
	defer s.carried.Delete(up.id)
	if err := up.begin(ctx); err != nil {
		return nil, err
	}
	// Whatever happens to the caller, what was begun is ended.
	keep := context.WithoutCancel(ctx)
	if err := up.carry(ctx, stream); err != nil {
		if undo := up.undo(keep); undo != nil {
			s.cfg.Log.Error("broken upload is not undone; the leader does it later", "image", up.id, "error", undo)
		}
		return nil, err
	}
	return up.finish(keep)
}

func readHeader(stream uploadStream) (*storagev1.UploadImageHeader, error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, request.Fault(err)
		}
	}
	h := stream.Msg().GetHeader()
	var v domain.Violations
	if h == nil {
		v.Add("header", "must be the first message")
		return nil, v.Err()
	}
	h.ProjectId = domain.Project(h.GetProjectId())
	if h.Pool == "" {
		h.Pool = domain.DefaultPool
	}
	domain.ValidateUpload(&v, h)
	return h, v.Err()
}

// repeated answers an upload that succeeded before under the same request id.
func (s *Service) repeated(ctx context.Context, h *storagev1.UploadImageHeader) (*storagev1.UploadImageResponse, error) {
	if h.GetRequestId() == "" {
		return nil, nil
	}
	_, err := s.cfg.Runner.Store.Get(ctx, state.RequestKey(caller.Principal(ctx), h.GetRequestId()))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, request.Fault(err)
	}
	return request.Do(ctx, s.cfg.Runner, uploadCall(h), func(context.Context) (*request.Plan[*storagev1.UploadImageResponse], error) {
		return nil, fault.New(metav1.Reason_REASON_BUSY, "the record of request_id %q went away meanwhile", h.GetRequestId()).WithRemedy("try again")
	})
}

// targets are where an image's first copies go.
type targets struct {
	pool   string
	shared bool // the pool is one place for several nodes: one of them makes the copy
	nodes  []*state.Row
}

// targets are the pool and the nodes that shall keep a copy: those named, else all ready nodes that reach the pool. atPool and atNodes are where they stand in the request.
func (s *Service) targets(project, poolRef string, nodeRefs []string, atPool, atNodes string) (targets, error) {
	var v domain.Violations
	if poolRef == "" {
		poolRef = domain.DefaultPool
	}
	pool := s.cfg.Cache.Resolve(state.KindPool, project, poolRef)
	if pool == nil {
		pool = s.cfg.Cache.Resolve(state.KindPool, domain.DefaultProject, poolRef)
	}
	if pool == nil || pool.Deleting {
		v.Add(atPool, "there is no pool %q: list storage pools to see which there are", poolRef)
		return targets{}, v.Err()
	}
	p := pool.Pool().GetPool()
	to := targets{pool: pool.ID, shared: p.GetStatus().GetShared()}
	for i, ref := range nodeRefs {
		row := s.cfg.Cache.Resolve(state.KindNode, "", ref)
		at := fmt.Sprintf("%s[%d]", atNodes, i)
		switch {
		case row == nil:
			v.Add(at, "there is no node %q", ref)
		case !domain.PoolUsable(p, row.ID):
			v.Add(at, "node %s does not reach pool %s now", row.Name, pool.Name)
		default:
			to.nodes = append(to.nodes, row)
		}
	}
	if err := v.Err(); err != nil {
		return targets{}, err
	}
	if len(nodeRefs) == 0 {
		for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindNode, Phases: []int32{readyNode}}).Rows {
			if domain.PoolUsable(p, row.ID) {
				to.nodes = append(to.nodes, row)
			}
		}
	}
	if len(to.nodes) == 0 {
		return targets{}, fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "no ready node reaches pool %s", pool.Name).
			WithRemedy("start an agent that has the %s driver, or mend one; node show says what is wrong", p.GetSpec().GetDriver())
	}
	if to.shared {
		to.nodes = to.nodes[:1]
	}
	return to, nil
}

// counter checks length and checksum of what passes.
type counter struct {
	header *storagev1.UploadImageHeader
	sum    hash.Hash
	bytes  int64
}

func newCounter(h *storagev1.UploadImageHeader) *counter {
	return &counter{header: h, sum: sha256.New()}
}

func (c *counter) add(part []byte) error {
	c.sum.Write(part)
	c.bytes += int64(len(part))
	if want := c.header.GetContentBytes(); want > 0 && c.bytes > want {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "more than the %d bytes that the header announces", want)
	}
	return nil
}

func (c *counter) end() error {
	if want := c.header.GetContentBytes(); want > 0 && c.bytes != want {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "the header announces %d bytes, %d came", want, c.bytes)
	}
	if c.bytes == 0 {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "no content came")
	}
	if want := c.header.GetSha256(); want != "" && want != c.hex() {
		return fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "the content has SHA-256 %s, the header announces %s", c.hex(), want).
			WithRemedy("fetch the file again, or correct the checksum")
	}
	return nil
}

func (c *counter) hex() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// parts reads the content of a stream.
func parts(stream uploadStream, take func([]byte) error) error {
	for stream.Receive() {
		data := stream.Msg().GetData()
		if stream.Msg().GetHeader() != nil || len(data) > maxPart {
			var v domain.Violations
			v.Add("data", "must follow the header, at most %d bytes at a time", maxPart)
			return v.Err()
		}
		if len(data) == 0 {
			continue
		}
		if err := take(data); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil && !errors.Is(err, io.EOF) {
		return request.Fault(err)
	}
	return nil
}
