package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// storedKey names a snapshot or an image copy of a pool.
type storedKey struct{ kind, id string }

const (
	keptSnapshot = "snapshot"
	keptImage    = "image"
)

// storedGrace is how long a copy that came by an upload may be there before a controller that was told of it wants it.
const storedGrace = time.Minute

// noteStored notes that a copy of an image has just come by an upload. mu is held.
func (e *Engine) noteStored(image string) {
	e.orphans.stored[image] = e.now()
	maps.DeleteFunc(e.orphans.stored, func(_ string, at time.Time) bool { return e.now().Sub(at) > storedGrace })
}

// surveyKept lists the snapshots and image copies of a pool that carry this node's mark. What lies in a shared pool has the cluster's, and is nobody's orphan.
func (e *Engine) surveyKept(ctx context.Context, pool string) {
	driver, err := e.poolReady(pool)
	if err != nil {
		return
	}
	seen := map[storedKey]seenVolume{}
	note := func(kind, id string, m *driverv1.OwnershipMark) {
		if m.GetClusterId() == e.cluster && m.GetNodeId() == e.node {
			seen[storedKey{kind, id}] = seenVolume{driver, m.GetEpoch()}
		}
	}
	p, _ := e.plugins.Plugin(driver)
	if slices.Contains(p.Capabilities.GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT) {
		for s, err := range e.snapshotsOf(ctx, driver, pool, "") {
			if err != nil {
				e.log.Warn("snapshots cannot be listed", "pool", pool, "plugin", driver, "error", err)
				return
			}
			note(keptSnapshot, s.GetSnapshotId(), s.GetMark())
		}
	}
	for token := ""; ; {
		var page *driverv1.ListImagesResponse
		err := e.poolCall(ctx, driver, pool, "ListImages", shortCall, func(ctx context.Context) (err error) {
			page, err = e.plugins.Storage(driver).ListImages(ctx, &driverv1.ListImagesRequest{PoolId: pool, PageToken: token})
			return err
		})
		if err != nil {
			e.log.Warn("image copies cannot be listed", "pool", pool, "plugin", driver, "error", err)
			return
		}
		for _, i := range page.GetImages() {
			note(keptImage, i.GetImageId(), i.GetMark())
		}
		if page.GetNextPageToken() == "" || page.GetNextPageToken() == token {
			break
		}
		token = page.GetNextPageToken()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.orphans.kept[pool] = seen
}

// keptOrphans adds what nobody wants. A snapshot that was being taken when it was listed may be wanted no more and gone: the next survey tells. mu is held.
func (e *Engine) keptOrphans(add func(*computev1.Orphan, realised.Key)) {
	copies := map[[2]string]bool{}
	for _, w := range e.wants {
		if img := w.obj.GetImage(); img != nil {
			copies[[2]string{img.GetPoolId(), img.GetImage().GetMeta().GetId()}] = true
		}
	}
	for pool, m := range e.orphans.kept {
		for k, v := range m {
			key := realised.Key{Kind: realised.KindSnapshot, ID: k.id}
			if k.kind == keptSnapshot && e.wants[key] != nil || k.kind == keptImage && copies[[2]string{pool, k.id}] {
				continue
			}
			if k.kind == keptImage && e.now().Sub(e.orphans.stored[k.id]) < storedGrace {
				continue
			}
			if k.kind == keptImage {
				key = realised.Key{}
			}
			add(&computev1.Orphan{Kind: k.kind, ObjectId: k.id, Driver: v.driver, Detail: "in pool " + pool, PoolId: pool, Epoch: v.epoch}, key)
		}
	}
}

// keptGone forgets a snapshot or image copy that was removed.
func (e *Engine) keptGone(kind, pool, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.orphans.kept[pool], storedKey{kind, id})
}
