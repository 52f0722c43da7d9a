package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/plugins"
	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// fakeHost is what a hypervisor holds: it outlives agents and plugins, and is both drivers at once.
type fakeHost struct {
	driverv1.UnimplementedComputeDriverServiceServer
	driverv1.UnimplementedStorageDriverServiceServer
	t    *testing.T
	conn *grpc.ClientConn

	mu       sync.Mutex
	changed  chan struct{}
	domains  map[string]*domain
	volumes  map[string]*driverv1.Volume
	images   map[string]*driverv1.Image
	snaps    map[string]*driverv1.Snapshot
	attached map[string]bool
	holders  map[string]string // nodes that have volumes attached elsewhere
	pools    map[string]bool   // told to the storage driver's present process
	calls    map[string]int
	fail     map[string]error // by method
	hang     map[string]bool  // by method: until the deadline
	hung     map[string]bool  // by pool: likewise
	ended    map[string]int   // calls that hung, by method
	sick     string           // pools say so of themselves
	noPool   error            // what EnsurePool answers
	shared   bool             // pools are one place for several nodes
	reboots  func()           // called in a reboot, if set
	deafTo   bool             // guests ignore shutdown requests
	pid      int64
	sinks    map[plugins.Sink]bool
	net      *fakeNet
	guest    *driverv1.GetGuestInfoResponse // nil = no agent answers
}

type domain struct {
	*driverv1.Domain
	spec *driverv1.DomainSpec
}

func newHost(t *testing.T) *fakeHost {
	t.Helper()
	h := &fakeHost{
		t: t, changed: make(chan struct{}), domains: map[string]*domain{}, volumes: map[string]*driverv1.Volume{}, images: map[string]*driverv1.Image{}, snaps: map[string]*driverv1.Snapshot{},
		attached: map[string]bool{}, pools: map[string]bool{}, calls: map[string]int{}, fail: map[string]error{}, hang: map[string]bool{}, hung: map[string]bool{}, ended: map[string]int{}, pid: 1000,
		sinks: map[plugins.Sink]bool{},
	}
	h.net = newNet(h)
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.UnaryInterceptor(h.intercept))
	driverv1.RegisterComputeDriverServiceServer(srv, h)
	driverv1.RegisterStorageDriverServiceServer(srv, h)
	driverv1.RegisterNetworkDriverServiceServer(srv, h.net)
	go srv.Serve(l) //nolint:errcheck // ends with Stop
	var err error
	h.conn, err = grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))
	must(t, err)
	t.Cleanup(func() { _ = h.conn.Close(); srv.Stop() })
	return h
}

func (h *fakeHost) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	name := info.FullMethod[slices.Index([]byte(info.FullMethod[1:]), '/')+2:]
	if _, ok := info.Server.(*fakeNet); ok && strings.HasSuffix(name, "tachInterface") {
		name = "Net" + name // the compute driver has them, too
	}
	h.mu.Lock()
	h.calls[name]++
	err, hang := h.fail[name], h.hang[name]
	if in, ok := req.(interface{ GetPoolId() string }); ok {
		hang = hang || h.hung[in.GetPoolId()]
	}
	if in, ok := req.(interface{ GetNetworkId() string }); ok {
		hang = hang || h.hung[in.GetNetworkId()]
	}
	if in, ok := req.(*driverv1.NetworkDriverServiceAttachInterfaceRequest); ok {
		hang = hang || h.hung[in.GetSpec().GetNetworkId()]
	}
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	if hang {
		<-ctx.Done()
		h.do(func() { h.ended[name]++ })
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// do changes the host under its lock.
func (h *fakeHost) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *fakeHost) count(method string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[method]
}

func (h *fakeHost) wait(what string, cond func() bool) {
	h.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		h.mu.Lock()
		ok, ch := cond(), h.changed
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("waited in vain for %s; calls %v", what, h.calls)
		}
	}
}

// pause is a moment between two looks at something that tells nobody when it changes.
func (h *fakeHost) pause() {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-h.t.Context().Done():
	}
}

// end lets a guest end by itself and tells the agents.
func (h *fakeHost) end(id string, state driverv1.DomainState, why driverv1.StopReason) {
	h.do(func() { h.off(h.domains[id], state, why) })
	h.tell(id)
}

func (h *fakeHost) off(d *domain, state driverv1.DomainState, why driverv1.StopReason) {
	d.State, d.StopReason, d.Pid, d.StartTime, d.Interfaces = state, why, 0, nil, nil
}

func (h *fakeHost) tell(id string) {
	h.event("kvm", &driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_Domain{Domain: &driverv1.DomainEvent{DomainId: id}}})
}

// event is one that a plugin tells the agents.
func (h *fakeHost) event(plugin string, e *driverv1.WatchEventsResponse) {
	h.mu.Lock()
	sinks := make([]plugins.Sink, 0, len(h.sinks))
	for s := range h.sinks {
		sinks = append(sinks, s)
	}
	h.mu.Unlock()
	for _, s := range sinks {
		s.Event(plugin, e)
	}
}

func (h *fakeHost) domain(id string) (*domain, error) {
	if d := h.domains[id]; d != nil {
		return d, nil
	}
	return nil, fault.New(metav1.Reason_REASON_DOMAIN_NOT_FOUND, "no domain %s", id)
}

func (d *domain) answer() *driverv1.Domain { return proto.CloneOf(d.Domain) }

func (h *fakeHost) GetNodeResources(context.Context, *driverv1.GetNodeResourcesRequest) (*driverv1.GetNodeResourcesResponse, error) {
	return &driverv1.GetNodeResourcesResponse{Architecture: "x86_64", Cpus: 8, MemoryBytes: 16 << 30}, nil
}

func (h *fakeHost) CreateDomain(_ context.Context, r *driverv1.CreateDomainRequest) (*driverv1.CreateDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[r.GetDomainId()]
	if d != nil && !proto.Equal(d.spec, r.GetSpec()) {
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "another spec")
	}
	if d == nil {
		d = &domain{spec: r.GetSpec(), Domain: &driverv1.Domain{
			DomainId: r.GetDomainId(), Mark: r.GetMark(), State: driverv1.DomainState_DOMAIN_STATE_STOPPED,
			StopReason: driverv1.StopReason_STOP_REASON_NEVER_STARTED, Handle: []byte("h1"),
		}}
		h.domains[r.GetDomainId()] = d
	}
	return &driverv1.CreateDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) UpdateDomain(_ context.Context, r *driverv1.UpdateDomainRequest) (*driverv1.UpdateDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	d.spec, d.Mark = r.GetSpec(), r.GetMark()
	return &driverv1.UpdateDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) StartDomain(_ context.Context, r *driverv1.StartDomainRequest) (*driverv1.StartDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	for _, disk := range d.spec.GetDisks() {
		if !h.attached[disk.GetDiskId()] {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "disk %s is not attached", disk.GetDiskId())
		}
	}
	if d.Pid == 0 {
		h.net.start(d)
		h.pid++
		d.State, d.Pid, d.StartTime, d.Accelerator = driverv1.DomainState_DOMAIN_STATE_RUNNING, h.pid, timestamppb.Now(), "tcg"
	}
	return &driverv1.StartDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) StopDomain(ctx context.Context, r *driverv1.StopDomainRequest) (*driverv1.StopDomainResponse, error) {
	h.mu.Lock()
	d := h.domains[r.GetDomainId()]
	if d == nil {
		h.mu.Unlock()
		return &driverv1.StopDomainResponse{}, nil
	}
	if h.deafTo && !r.GetForce() && d.Pid != 0 {
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(r.GetGrace().AsDuration()):
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "the guest did not shut down")
		}
	}
	defer h.mu.Unlock()
	h.off(d, driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_SHUTDOWN)
	return &driverv1.StopDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) RebootDomain(_ context.Context, r *driverv1.RebootDomainRequest) (*driverv1.RebootDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	if h.reboots != nil {
		h.reboots()
	}
	return &driverv1.RebootDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) PauseDomain(_ context.Context, r *driverv1.PauseDomainRequest) (*driverv1.PauseDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	d.State = driverv1.DomainState_DOMAIN_STATE_PAUSED
	return &driverv1.PauseDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) ResumeDomain(_ context.Context, r *driverv1.ResumeDomainRequest) (*driverv1.ResumeDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	d.State = driverv1.DomainState_DOMAIN_STATE_RUNNING
	return &driverv1.ResumeDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) DeleteDomain(_ context.Context, r *driverv1.DeleteDomainRequest) (*driverv1.DeleteDomainResponse, error) {
	h.do(func() { delete(h.domains, r.GetDomainId()) })
	return &driverv1.DeleteDomainResponse{}, nil
}

func (h *fakeHost) GetDomain(_ context.Context, r *driverv1.GetDomainRequest) (*driverv1.GetDomainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetDomainResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) ListDomains(context.Context, *driverv1.ListDomainsRequest) (*driverv1.ListDomainsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &driverv1.ListDomainsResponse{}
	for _, d := range h.domains {
		out.Domains = append(out.Domains, d.answer())
	}
	return out, nil
}

func (h *fakeHost) GetStats(context.Context, *driverv1.GetStatsRequest) (*driverv1.GetStatsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &driverv1.GetStatsResponse{}
	for id, d := range h.domains {
		if d.Pid != 0 {
			out.Domains = append(out.Domains, &driverv1.DomainStats{DomainId: id, CpuTimeNs: 5e9, Vcpus: 1, Disks: []*driverv1.DiskStats{{DiskId: "d"}}})
		}
	}
	return out, nil
}

func (h *fakeHost) OpenConsole(s driverv1.ComputeDriverService_OpenConsoleServer) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	if _, err := h.GetDomain(s.Context(), &driverv1.GetDomainRequest{DomainId: m.GetOpen().GetDomainId()}); err != nil {
		return err
	}
	if err := s.Send(&driverv1.OpenConsoleResponse{}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return nil //nolint:nilerr // the other side is done
		}
		if string(m.GetData()) == "bye" {
			return nil
		}
		if err := s.Send(&driverv1.OpenConsoleResponse{Data: append([]byte("echo "), m.GetData()...)}); err != nil {
			return err
		}
	}
}

func (h *fakeHost) ReadConsoleLog(r *driverv1.ReadConsoleLogRequest, s driverv1.ComputeDriverService_ReadConsoleLogServer) error {
	if err := s.Send(&driverv1.ReadConsoleLogResponse{Offset: r.GetOffset(), Data: []byte("login: ")}); err != nil {
		return err
	}
	if r.GetFollow() {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return nil
}

func (h *fakeHost) poolKnown(id string) error {
	if !h.pools[id] {
		return fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s was not ensured", id)
	}
	return nil
}

func (h *fakeHost) EnsurePool(_ context.Context, r *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	var err error
	h.do(func() {
		if err = h.noPool; err == nil {
			h.pools[r.GetPoolId()] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.EnsurePoolResponse{Pool: &driverv1.Pool{PoolId: r.GetPoolId(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY, CapacityBytes: 1 << 40}}, nil
}

func (h *fakeHost) GetPool(_ context.Context, r *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.poolKnown(r.GetPoolId()); err != nil {
		return nil, err
	}
	p := &driverv1.Pool{PoolId: r.GetPoolId(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY, CapacityBytes: 1 << 40}
	if h.sick != "" {
		p.Health, p.Reason, p.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, "BACKEND_UNAVAILABLE", h.sick
	}
	return &driverv1.GetPoolResponse{Pool: p}, nil
}

func (h *fakeHost) ReleasePool(_ context.Context, r *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	h.do(func() { delete(h.pools, r.GetPoolId()) })
	return &driverv1.ReleasePoolResponse{}, nil
}

func (h *fakeHost) CreateVolume(_ context.Context, r *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.poolKnown(r.GetPoolId()); err != nil {
		return nil, err
	}
	if img := r.GetSource().GetImageId(); img != "" && h.images[img] == nil {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no image %s", img)
	}
	v := h.volumes[r.GetVolumeId()]
	if v == nil {
		v = &driverv1.Volume{PoolId: r.GetPoolId(), VolumeId: r.GetVolumeId(), Mark: r.GetMark(), SizeBytes: r.GetSizeBytes(), Format: r.GetFormat()}
		h.volumes[r.GetVolumeId()] = v
	}
	return &driverv1.CreateVolumeResponse{Volume: v}, nil
}

func (h *fakeHost) GetVolume(_ context.Context, r *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.poolKnown(r.GetPoolId()); err != nil {
		return nil, err
	}
	v := h.volumes[r.GetVolumeId()]
	if v == nil {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "no volume %s", r.GetVolumeId())
	}
	return &driverv1.GetVolumeResponse{Volume: v}, nil
}

func (h *fakeHost) ResizeVolume(_ context.Context, r *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := proto.CloneOf(h.volumes[r.GetVolumeId()])
	v.SizeBytes = r.GetSizeBytes()
	h.volumes[r.GetVolumeId()] = v
	return &driverv1.ResizeVolumeResponse{Volume: v}, nil
}

func (h *fakeHost) DeleteVolume(_ context.Context, r *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached[r.GetVolumeId()] || h.holders[r.GetVolumeId()] != "" {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "attached")
	}
	delete(h.volumes, r.GetVolumeId())
	return &driverv1.DeleteVolumeResponse{}, nil
}

func (h *fakeHost) ListVolumes(_ context.Context, r *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.poolKnown(r.GetPoolId()); err != nil {
		return nil, err
	}
	out := &driverv1.ListVolumesResponse{}
	for _, v := range h.volumes {
		out.Volumes = append(out.Volumes, v)
	}
	return out, nil
}

func (h *fakeHost) AttachVolume(_ context.Context, r *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.poolKnown(r.GetPoolId()); err != nil {
		return nil, err
	}
	if h.volumes[r.GetVolumeId()] == nil {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "no volume %s", r.GetVolumeId())
	}
	if h.holders[r.GetVolumeId()] == r.GetFencedNodeId() {
		delete(h.holders, r.GetVolumeId())
	}
	if n := h.holders[r.GetVolumeId()]; n != "" {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "attached by node %s", n)
	}
	h.attached[r.GetVolumeId()] = true
	return &driverv1.AttachVolumeResponse{Handle: []byte("a"), Source: fileSource("/pool/" + r.GetVolumeId())}, nil
}

func fileSource(path string) *driverv1.DiskSource {
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: path, Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW}}}
}

func (h *fakeHost) DetachVolume(_ context.Context, r *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	h.do(func() { delete(h.attached, r.GetVolumeId()) })
	return &driverv1.DetachVolumeResponse{}, nil
}

func (h *fakeHost) AttachImage(_ context.Context, r *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.images[r.GetImageId()] == nil {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no image %s", r.GetImageId())
	}
	return &driverv1.AttachImageResponse{Source: fileSource("/img/" + r.GetImageId())}, nil
}

func (h *fakeHost) GetImage(_ context.Context, r *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.images[r.GetImageId()] == nil {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no image %s", r.GetImageId())
	}
	return &driverv1.GetImageResponse{Image: h.images[r.GetImageId()]}, nil
}

func (h *fakeHost) DeleteImage(_ context.Context, r *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	h.do(func() { delete(h.images, r.GetImageId()) })
	return &driverv1.DeleteImageResponse{}, nil
}

func (h *fakeHost) ImportImage(s driverv1.StorageDriverService_ImportImageServer) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	head, n := m.GetHeader(), int64(0)
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		n += int64(len(m.GetData()))
	}
	if head.GetContentBytes() != 0 && head.GetContentBytes() != n {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "%d bytes came, not %d", n, head.GetContentBytes())
	}
	img := &driverv1.Image{PoolId: head.GetPoolId(), ImageId: head.GetImageId(), Mark: head.GetMark(), ContentBytes: n, VirtualSizeBytes: n, Sha256: "s"}
	h.do(func() { h.images[img.GetImageId()] = img })
	return s.SendAndClose(&driverv1.ImportImageResponse{Image: img})
}

func (h *fakeHost) ListImages(_ context.Context, r *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &driverv1.ListImagesResponse{}
	for _, i := range h.images {
		if i.GetPoolId() == r.GetPoolId() {
			out.Images = append(out.Images, i)
		}
	}
	return out, nil
}

func (h *fakeHost) ListSnapshots(_ context.Context, r *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &driverv1.ListSnapshotsResponse{}
	for _, s := range h.snaps {
		if s.GetPoolId() == r.GetPoolId() && (r.GetVolumeId() == "" || s.GetVolumeId() == r.GetVolumeId()) {
			out.Snapshots = append(out.Snapshots, s)
		}
	}
	return out, nil
}

// fakePlugins are two plugins, kvm and local, whose processes can be killed.
type fakePlugins struct {
	h    *fakeHost
	sink plugins.Sink
	nets []string // network plugins

	mu       sync.Mutex
	down     map[string]bool
	instance map[string]uint64
}

func (p *fakePlugins) Start() {
	p.h.do(func() { p.h.sinks[p.sink] = true; p.h.pools = map[string]bool{} })
	for _, name := range p.all() {
		p.up(name)
	}
}

func (p *fakePlugins) all() []string { return append([]string{"kvm", "local"}, p.nets...) }

func (p *fakePlugins) up(name string) {
	if name == "local" {
		p.h.do(func() { p.h.pools = map[string]bool{} })
	}
	p.mu.Lock()
	p.down[name] = false
	p.instance[name]++
	p.mu.Unlock()
	p.sink.PluginUp(name)
	p.sink.PluginsChanged()
}

func (p *fakePlugins) kill(name string) {
	p.mu.Lock()
	p.down[name] = true
	p.mu.Unlock()
	p.sink.PluginsChanged()
}

func (p *fakePlugins) Rescan(context.Context) {}

func (p *fakePlugins) Close(context.Context) error {
	p.h.do(func() { delete(p.h.sinks, p.sink) })
	return nil
}

func (p *fakePlugins) Status() []*computev1.DriverStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*computev1.DriverStatus
	for _, n := range p.all() {
		state := "healthy"
		if p.down[n] {
			state = "unhealthy"
		}
		st := &computev1.DriverStatus{Name: n, State: state, Version: "1"}
		if slices.Contains(p.nets, n) {
			st.NetworkTypes, st.NetworkUplinks = []networkv1.NetworkType{networkv1.NetworkType_NETWORK_TYPE_BRIDGE}, []string{"eth1"}
		}
		out = append(out, st)
	}
	return out
}

func (p *fakePlugins) Resources(ctx context.Context) (*driverv1.GetNodeResourcesResponse, error) {
	return p.Compute("kvm").GetNodeResources(ctx, &driverv1.GetNodeResourcesRequest{})
}

func (p *fakePlugins) Plugin(name string) (reconcile.Plugin, bool) {
	p.h.mu.Lock()
	shared := p.h.shared
	p.h.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.all(), name) {
		return reconcile.Plugin{}, false
	}
	return reconcile.Plugin{
		Name: name, Running: !p.down[name] && p.instance[name] > 0, Healthy: true, Instance: p.instance[name], Reason: "PLUGIN_UNAVAILABLE", Message: "it was killed",
		Capabilities: &driverv1.GetCapabilitiesResponse{
			Compute: &driverv1.ComputeCapabilities{Features: p.features()},
			Network: &driverv1.NetworkCapabilities{Types: []driverv1.NetworkType{driverv1.NetworkType_NETWORK_TYPE_BRIDGE}},
			Storage: &driverv1.StorageCapabilities{SharedPools: shared, Features: []driverv1.StorageFeature{driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT}},
		},
	}, true
}

func (p *fakePlugins) Names(kind string) []string {
	return map[string][]string{"compute": {"kvm"}, "storage": {"local"}, "network": p.nets}[kind]
}

// features are those of the compute plugin; without networks none, as a driver that does the least.
func (p *fakePlugins) features() []driverv1.ComputeFeature {
	if len(p.nets) == 0 {
		return nil
	}
	return []driverv1.ComputeFeature{
		driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG, driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE, driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT,
	}
}

func (p *fakePlugins) Network(name string) driverv1.NetworkDriverServiceClient {
	return driverv1.NewNetworkDriverServiceClient(p.gate(name))
}

func (p *fakePlugins) gate(name string) grpc.ClientConnInterface {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down[name] {
		return downConn{}
	}
	return p.h.conn
}

func (p *fakePlugins) Compute(name string) driverv1.ComputeDriverServiceClient {
	return driverv1.NewComputeDriverServiceClient(p.gate(name))
}

func (p *fakePlugins) Storage(name string) driverv1.StorageDriverServiceClient {
	return driverv1.NewStorageDriverServiceClient(p.gate(name))
}

// downConn is the way to a plugin that does not run.
type downConn struct{}

func (downConn) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "it was killed")
}

func (downConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "it was killed")
}
