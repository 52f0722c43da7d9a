package fault

import (
	"context"
	"errors"
	"time"
)

// TimeIsUp reports whether a call that failed did so by its deadline. The plugin's side, or gRPC, may notice that a moment before ctx does: the stream then ends as if cancelled, or
// with an error of its own, while ctx has none yet.
func TimeIsUp(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ok && time.Until(d) < 100*time.Millisecond && !errors.Is(ctx.Err(), context.Canceled)
}
