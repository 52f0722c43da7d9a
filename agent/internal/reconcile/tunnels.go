package reconcile

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// poolPatience is how long an upload waits for its pool.
const poolPatience = 15 * time.Second

// Domain is the driver of a VM that was realised here, with its handle.
func (e *Engine) Domain(vmID string) (driver string, handle []byte, err error) {
	r, ok := e.store.Record(realised.Key{Kind: realised.KindVM, ID: vmID})
	if !ok || r.Driver == "" || !r.Gone.IsZero() {
		return "", nil, fault.New(metav1.Reason_REASON_DOMAIN_NOT_FOUND, "vm %s has not been made on this node", vmID)
	}
	_, err = e.pluginFor(r.Driver)
	return r.Driver, r.Handle, err
}

// Pool waits, for a while, until a pool is usable, and names its driver.
func (e *Engine) Pool(ctx context.Context, poolID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, poolPatience)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		driver, err := e.poolReady(poolID)
		if err == nil {
			return driver, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-t.C:
		}
	}
}

// Mark is the mark for an object of this node.
func (e *Engine) Mark(objectID string, generation, epoch int64) *driverv1.OwnershipMark {
	return e.mark(objectID, generation, epoch)
}

// Stored says that an image copy is complete.
func (e *Engine) Stored(img *driverv1.Image) {
	e.mu.Lock()
	e.noteStored(img.GetImageId())
	e.mu.Unlock()
	e.reporter.Image(CopyReport(img))
	e.ImageStored(img.GetImageId())
}
