package pki

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
)

func TestClusterIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	dir, ctx := t.TempDir(), context.Background()
	first, err := OpenCluster(ctx, s, dir, time.Now)
	if err != nil || !first.Created {
		t.Fatal(first, err)
	}
	for _, name := range []string{TokenFile, KeyFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Error(name, info, err)
		}
	}
	again, err := OpenCluster(ctx, s, dir, time.Now)
	if err != nil || again.Created || again.ID != first.ID || again.CA.Hash() != first.CA.Hash() {
		t.Fatal(again, err)
	}
	hash, err := AdminTokenSHA256(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := TokenFileHolds(first.TokenFile, hash); !ok || err != nil {
		t.Error("the file's token is not the store's", err)
	}
	path, err := ResetAdminToken(ctx, s, dir)
	if err != nil || path != first.TokenFile {
		t.Fatal(path, err)
	}
	if ok, _ := TokenFileHolds(path, hash); ok {
		t.Error("the token is still the old one")
	}
	hash, _ = AdminTokenSHA256(ctx, s)
	if ok, err := TokenFileHolds(path, hash); !ok || err != nil {
		t.Error("the file's new token is not the store's", err)
	}
	if ok, err := TokenFileHolds(path+"x", hash); ok || err != nil {
		t.Error(ok, err)
	}
	// Another host has the store, not the key.
	if _, err := OpenCluster(ctx, s, t.TempDir(), time.Now); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Error(err)
	}
}
