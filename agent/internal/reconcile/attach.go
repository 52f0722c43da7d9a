package reconcile

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// attach attaches all volumes and images of a VM and makes the definition that results. When one fails, those attached in this run are detached again, last
// one first.
func (r *vmRun) attach(ctx context.Context) error {
	src := &sources{volumes: map[string]*driverv1.DiskSource{}, limits: map[string]*driverv1.IoLimits{}, shared: map[string]bool{}}
	before := slices.Clone(r.rec.Attachments)
	r.e.mu.Lock()
	input := r.e.inputHash(r.d)
	r.e.mu.Unlock()
	err := r.attachVolumes(ctx, src)
	if err == nil {
		err = r.attachImages(ctx, src)
	}
	if err == nil {
		err = r.takePorts(src)
	}
	var spec *driverv1.DomainSpec
	if err == nil {
		spec, err = domainSpec(r.d, *src)
	}
	if err != nil {
		if !outcomeUnknown(err) {
			r.undoAttach(ctx, since(before, r.rec.Attachments))
		}
		return err
	}
	r.s.sources, r.s.input, r.s.spec = src, input, spec
	r.s.specHash = specHash(spec)
	return nil
}

// specHash is of a definition without its user-data, which may be unknown; what it is, is in the input's hash.
func specHash(spec *driverv1.DomainSpec) string {
	if spec.GetCloudInit() != nil {
		spec = proto.CloneOf(spec)
		spec.CloudInit.UserData = nil
	}
	return hashOf(spec)
}

func since(before, after []realised.Attachment) []realised.Attachment {
	var out []realised.Attachment
	for _, a := range after {
		if !slices.ContainsFunc(before, func(b realised.Attachment) bool { return b.VolumeID == a.VolumeID }) {
			out = append(out, a)
		}
	}
	return out
}

func (r *vmRun) attachVolumes(ctx context.Context, src *sources) error {
	ids := volumeIDs(r.d)
	for _, disk := range r.d.GetSpec().GetDisks() {
		id := ids[disk.GetName()]
		vol := r.volume(id)
		if vol == nil {
			return fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "the volume of disk %q is not assigned to this node", disk.GetName())
		}
		pool := vol.GetSpec().GetPoolId()
		driver, err := r.e.poolReady(pool)
		if err != nil {
			return err
		}
		r.noteAttachment(id)
		err = pastFenced(r.e.wantedVolume(id).GetFencedNodeIds(), func(fenced string) error {
			return r.e.poolCall(ctx, driver, pool, "AttachVolume", usualCall, func(ctx context.Context) error {
				a, err := r.e.plugins.Storage(driver).AttachVolume(ctx, &driverv1.AttachVolumeRequest{
					PoolId: pool, VolumeId: id, ReadOnly: disk.GetReadOnly(), Shared: vol.GetSpec().GetShared(), FencedNodeId: fenced,
				})
				if err == nil {
					src.volumes[id] = a.GetSource()
					r.attached(id, a.GetHandle())
				}
				return err
			})
		})
		if err != nil {
			if fault.From(err).Code == codes.NotFound {
				r.volumeMissing(id)
			}
			return err
		}
		src.shared[id] = vol.GetSpec().GetShared()
		if l := limitsOf(vol); l != nil {
			src.limits[id] = l
		}
	}
	return nil
}

// volumeMissing lets a volume's own worker find out.
func (r *vmRun) volumeMissing(id string) {
	r.e.mu.Lock()
	r.e.volumeState(id).ready = false
	r.e.mu.Unlock()
	r.e.queue.add(realised.Key{Kind: realised.KindVolume, ID: id})
}

func (r *vmRun) volume(id string) *storagev1.Volume {
	return r.e.wantedVolume(id).GetVolume()
}

// noteAttachment records a volume before it is attached, so that it is detached whatever happens in between.
func (r *vmRun) noteAttachment(id string) {
	if id == "" || slices.ContainsFunc(r.rec.Attachments, func(a realised.Attachment) bool { return a.VolumeID == id }) {
		return
	}
	vol := r.volume(id)
	if vol == nil {
		return
	}
	pool := vol.GetSpec().GetPoolId()
	r.rec.Attachments = append(r.rec.Attachments, realised.Attachment{VolumeID: id, PoolID: pool, Driver: r.e.poolDriver(pool)})
	r.keep()
}

func (r *vmRun) attached(id string, handle []byte) {
	for i := range r.rec.Attachments {
		if r.rec.Attachments[i].VolumeID == id {
			r.rec.Attachments[i].Handle = handle
		}
	}
	r.keep()
}

// attachImages finds the files of kernel and initrd: copies in any pool of this node.
func (r *vmRun) attachImages(ctx context.Context, src *sources) (err error) {
	k := r.d.GetSpec().GetBoot().GetKernel()
	if k == nil {
		return nil
	}
	if src.kernel, err = r.imageFile(ctx, "kernel", k.GetKernelImage()); err != nil {
		return err
	}
	if k.GetInitrdImage() != "" {
		src.initrd, err = r.imageFile(ctx, "initrd", k.GetInitrdImage())
	}
	return err
}

func (r *vmRun) imageFile(ctx context.Context, what, image string) (string, error) {
	pools := r.e.poolsWithImage(image)
	var waiting error
	for _, pool := range pools {
		driver, err := r.e.poolReady(pool)
		if err != nil {
			waiting = err
			continue
		}
		var path string
		err = r.e.poolCall(ctx, driver, pool, "AttachImage", usualCall, func(ctx context.Context) error {
			a, err := r.e.plugins.Storage(driver).AttachImage(ctx, &driverv1.AttachImageRequest{PoolId: pool, ImageId: image})
			path = a.GetSource().GetFile().GetPath()
			return err
		})
		switch {
		case err == nil && path != "":
			return path, nil
		case err == nil: // not a file: a kernel cannot be read from it
		case fault.From(err).Code != codes.NotFound:
			waiting = err
		}
	}
	if waiting != nil {
		return "", waiting
	}
	return "", fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no copy of the %s image %s is on this node", what, image).WithRemedy("upload it to a pool of this node")
}

// poolsWithImage lists the node's pools, those first that shall have a copy of the image.
func (e *Engine) poolsWithImage(image string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var first, others []string
	for _, w := range e.wants {
		if d := w.obj.GetImage(); d != nil && !d.GetAbsent() && d.GetImage().GetMeta().GetId() == image {
			first = append(first, d.GetPoolId())
		}
	}
	for k, w := range e.wants {
		if k.Kind == realised.KindPool && !w.obj.GetPool().GetAbsent() && !slices.Contains(first, k.ID) {
			others = append(others, k.ID)
		}
	}
	slices.Sort(first)
	slices.Sort(others)
	return append(first, others...)
}

// undoAttach detaches volumes again, last one first. What cannot be detached stays in the record and is detached when the VM goes.
func (r *vmRun) undoAttach(ctx context.Context, list []realised.Attachment) {
	r.s.sources = nil
	for _, a := range slices.Backward(slices.Clone(list)) {
		if err := r.detach(ctx, a); err != nil {
			r.e.log.Warn("volume cannot be detached again", "vm", r.d.GetVmId(), "volume", a.VolumeID, "error", err)
		}
	}
}

// detachRetry is how often it is tried to detach what a VM uses no more.
const detachRetry = 5 * time.Second

// detachUnused detaches volumes that the VM does not use any more, once its definition is without them; false when some is left that has to be tried again.
func (r *vmRun) detachUnused(ctx context.Context) (done bool) {
	done = true
	ids := volumeIDs(r.d)
	for _, a := range slices.Clone(r.rec.Attachments) {
		used := false
		for _, id := range ids {
			used = used || id == a.VolumeID
		}
		if used || r.s.domain.GetRestartRequired() {
			continue
		}
		if err := r.detach(ctx, a); err != nil {
			done = false
			r.e.log.Warn("volume cannot be detached", "vm", r.d.GetVmId(), "volume", a.VolumeID, "error", err, "retry", detachRetry)
		}
	}
	return done
}

// detachAll detaches everything, last one first.
func (r *vmRun) detachAll(ctx context.Context) error {
	for _, a := range slices.Backward(slices.Clone(r.rec.Attachments)) {
		if err := r.detach(ctx, a); err != nil {
			return err
		}
	}
	r.rec.Attachments = nil
	r.keep()
	return nil
}

func (r *vmRun) detach(ctx context.Context, a realised.Attachment) error {
	driver, err := r.e.poolReady(a.PoolID)
	if err != nil {
		return err
	}
	err = r.e.poolCall(ctx, driver, a.PoolID, "DetachVolume", usualCall, func(ctx context.Context) error {
		_, err := r.e.plugins.Storage(driver).DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: a.PoolID, VolumeId: a.VolumeID, Handle: a.Handle})
		return err
	})
	if err != nil {
		return err
	}
	r.rec.Attachments = slices.DeleteFunc(r.rec.Attachments, func(b realised.Attachment) bool { return b.VolumeID == a.VolumeID })
	r.keep()
	return nil
}

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(max(d, 0)) }
