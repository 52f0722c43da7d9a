package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestCacheBuildsOnce(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := c.Folder(t.Context(), "thing", "k", func(_ context.Context, dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
			})
			if err != nil {
				t.Error(err)
			} else if !exists(filepath.Join(dir, "f")) {
				t.Errorf("%s was returned before it was built", dir)
			}
		})
	}
	wg.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}

func TestCacheForgetsFailedBuild(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	broken := errors.New("broken")
	_, err := c.Folder(t.Context(), "thing", "k", func(_ context.Context, dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "half"), nil, 0o644)
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	dir, err := c.Folder(t.Context(), "thing", "k", func(context.Context, string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "half")) {
		t.Error("what a failed build made is in the artefact")
	}
}

func TestLockEndsWithContext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "l")
	unlock, err := lockFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFile(ctx, file); !errors.Is(err, context.Canceled) {
		t.Errorf("second lock: %v", err)
	}
}
