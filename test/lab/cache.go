package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// CacheEnv names the environment variable that moves the cache.
const CacheEnv = "LIMIQUANTIX_TEST_CACHE"

// Cache keeps what is expensive to build between runs. Each artefact is a
// folder named after its kind and a key; the key covers everything that went
// into it, so an artefact is never changed, only replaced by another one.
type Cache struct {
	Dir string
}

// OpenCache returns the cache of this user: $LIMIQUANTIX_TEST_CACHE, else
// limiquantix-test in $XDG_CACHE_HOME or ~/.cache.
func OpenCache() (Cache, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return Cache{}, fmt.Errorf("find a cache folder (or set %s): %w", CacheEnv, err)
		}
		dir = filepath.Join(base, "limiquantix-test")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cache{}, fmt.Errorf("cache folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Cache{}, fmt.Errorf("cache folder: %w", err)
	}
	return Cache{Dir: dir}, nil
}

// Key condenses what an artefact is made from.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Folder returns the folder of artefact name-key, which build fills if it is
// not there yet. Processes wait for each other; a failed or interrupted build
// leaves nothing behind that a later call would take for the artefact.
func (c Cache) Folder(ctx context.Context, name, key string, build func(ctx context.Context, dir string) error) (string, error) {
	final := filepath.Join(c.Dir, name+"-"+key)
	if exists(final) {
		return final, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(c.Dir, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", name, err)
	}
	defer unlock()
	if exists(final) {
		return final, nil
	}
	tmp := filepath.Join(c.Dir, "tmp-"+name) // ours alone while we hold the lock
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("clear an earlier build of %s: %w", name, err)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return final, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lockFile takes an exclusive lock that dies with the process.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			f.Close()
			return nil, err
		}
	}
}

// pause waits for d or for the end of ctx, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
