package pki

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/seal"
	"github.com/limiquantix/limiquantix/controller/internal/store"
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

// overtaken lets another controller make the cluster between the first look and the commit.
type overtaken struct {
	store.Store
	first func()
}

func (o *overtaken) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	if o.first != nil {
		first := o.first
		o.first = nil
		first()
	}
	return o.Store.Commit(ctx, txns)
}

func TestSecondControllerNeedsTheKeyFile(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	one, two, ctx := t.TempDir(), t.TempDir(), context.Background()
	var first *Cluster
	_, err := OpenCluster(ctx, &overtaken{Store: s, first: func() {
		var err error
		if first, err = OpenCluster(ctx, s, one, time.Now); err != nil {
			t.Error(err)
		}
	}}, two, time.Now)
	if err == nil || !strings.Contains(err.Error(), "copy it from the controller that made the cluster") {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(two); len(left) > 0 {
		t.Errorf("the slower controller keeps %v, which open nothing", left)
	}
	if _, err := seal.CreateKey(filepath.Join(two, KeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCluster(ctx, s, two, time.Now); err == nil || !strings.Contains(err.Error(), filepath.Join(two, KeyFile)+" is not that of cluster "+first.ID) {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(one, KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(two, KeyFile), key, 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := OpenCluster(ctx, s, two, time.Now)
	if err != nil || second.Created || second.CA.Hash() != first.CA.Hash() {
		t.Fatal(second, err)
	}
}

func TestControllerCertificateIsNoNodes(t *testing.T) {
	t.Parallel()
	ca := testCA(t, "c1")
	cert, err := ca.IssueController("x")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if id, err := ControllerIDFromCert(parsed, "c1"); err != nil || id != "x" {
		t.Error(id, err)
	}
	if _, err := ControllerIDFromCert(parsed, "c2"); err == nil {
		t.Error("taken for another cluster's")
	}
	if id, err := NodeIDFromCert(parsed, "c1"); err == nil {
		t.Error("taken for node", id)
	}
	req, err := ParseRequest(csr(t, ecKey(t, elliptic.P256())))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.IssueNode(req, "n1", FirstSerial())
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err = x509.ParseCertificate(issued.DER); err != nil {
		t.Fatal(err)
	}
	if id, err := ControllerIDFromCert(parsed, "c1"); err == nil {
		t.Error("a node taken for controller", id)
	}
}
