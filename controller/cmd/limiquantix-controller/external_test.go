package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
)

// guarded is an etcd that asks for a client's certificate and for a user, and the configuration that satisfies it.
type guarded struct {
	cfg    config.Config
	others *etcdtest.Identity // of another CA
	dir    string
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	ca := etcdtest.NewAuthority(t)
	cluster := etcdtest.Start(t, etcdtest.Options{Identity: ca.Issue("server")})
	id := ca.Issue("controller")
	g := &guarded{cfg: config.Default(), others: etcdtest.NewAuthority(t).Issue("stranger"), dir: t.TempDir()}
	g.cfg.DataDir = filepath.Join(g.dir, "data")
	g.cfg.Store = config.Store{
		Kind: config.StoreEtcd, Endpoints: cluster.Endpoints(),
		TLS:  config.StoreTLS{CA: id.CA, Cert: id.Cert, Key: id.Key},
		User: "limiquantix", PasswordFile: g.file(t, "password", "right\n", 0o600),
	}
	g.askForUsers(t)
	return g
}

func (g *guarded) file(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(g.dir, name)
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// askForUsers does what docs/operations.md tells the operator of the cluster to do.
func (g *guarded) askForUsers(t *testing.T) {
	t.Helper()
	secure, err := storeTLS(g.cfg.Store.TLS)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: g.cfg.Store.Endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for _, step := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := c.UserAdd(ctx, "root", "root"); return err },
		func(ctx context.Context) error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func(ctx context.Context) error { _, err := c.RoleAdd(ctx, "limiquantix"); return err },
		func(ctx context.Context) error {
			_, err := c.RoleGrantPermission(ctx, "limiquantix", externalPrefix, clientv3.GetPrefixRangeEnd(externalPrefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func(ctx context.Context) error { _, err := c.UserAdd(ctx, "limiquantix", "right"); return err },
		func(ctx context.Context) error {
			_, err := c.UserGrantRole(ctx, "limiquantix", "limiquantix")
			return err
		},
		func(ctx context.Context) error { _, err := c.UserAdd(ctx, "nobody", "right"); return err },
		func(ctx context.Context) error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(t.Context()); err != nil && !strings.Contains(err.Error(), "role name already exists") {
			t.Fatal(err)
		}
	}
}

// A cluster with client certificates and users serves everything that the controller asks of a store, to a user who may touch nothing but its own keys.
func TestGuardedCluster(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := openStore(ctx, g.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	w, err := s.Watch(ctx, "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	leader, err := s.Campaign(ctx, "n", "me")
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Commit(ctx, []store.Txn{{Conditions: []store.Condition{leader.Fence()}, Ops: []store.Op{store.Put("k", []byte("v"))}}, {Ops: []store.Op{store.DeletePrefix("none/")}}})
	if err != nil || !res[0].Succeeded {
		t.Fatalf("the leader's write: %+v, %v", res, err)
	}
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Events) > 0 {
			break
		}
	}
	if list, err := s.List(ctx, "", store.ListOptions{}); err != nil || len(list.KVs) != 2 {
		t.Fatalf("everything: %+v, %v", list, err)
	}
	if st, err := s.Status(ctx); err != nil || st.Revision == 0 {
		t.Fatalf("status: %+v, %v", st, err)
	}
	if err := leader.Resign(ctx); err != nil {
		t.Fatal(err)
	}
}

// Each way in which a cluster can refuse the controller is told as what it is.
func TestGuardedClusterRefuses(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	good := g.cfg.Store
	cases := []struct {
		name   string
		change func(s *config.Store)
		want   []string
	}{
		{"no certificate", func(s *config.Store) { s.TLS.Cert, s.TLS.Key = "", "" }, []string{"https://", "certificate required"}},
		{"certificate of another CA", func(s *config.Store) { s.TLS.Cert, s.TLS.Key = g.others.Cert, g.others.Key }, []string{"https://", "unknown certificate authority"}},
		{"cluster of another CA", func(s *config.Store) { s.TLS.CA = g.others.CA }, []string{"signed by unknown authority"}},
		{"system's trust", func(s *config.Store) { s.TLS.CA = "" }, []string{"signed by unknown authority"}},
		{"no user", func(s *config.Store) { s.User, s.PasswordFile = "", "" }, []string{"asks for a user", "store.user"}},
		{"wrong password", func(s *config.Store) { s.PasswordFile = g.file(t, "wrong", "wrong", 0o600) }, []string{`"limiquantix"`, "password"}},
		{"user without a role", func(s *config.Store) { s.User = "nobody" }, []string{`"nobody"`, `"/limiquantix/"`, "grant"}},
		{"without TLS", func(s *config.Store) {
			s.Endpoints, s.TLS = []string{strings.Replace(good.Endpoints[0], "https", "http", 1)}, config.StoreTLS{}
		}, []string{"http://", "ends the connection"}},
		{"nobody there", func(s *config.Store) { s.Endpoints = []string{"https://" + etcdtest.Host() + ":1"} }, []string{"connection refused"}},
		{"password for all to read", func(s *config.Store) { s.PasswordFile = g.file(t, "open", "right", 0o644) }, []string{"store.password_file", "0644", "chmod"}},
		{"no password", func(s *config.Store) { s.PasswordFile = g.file(t, "empty", "\n", 0o600) }, []string{"store.password_file", "is empty"}},
		{"two lines", func(s *config.Store) { s.PasswordFile = g.file(t, "two", "right\nleft\n", 0o600) }, []string{"store.password_file", "more than one line"}},
		{"no file", func(s *config.Store) { s.PasswordFile = filepath.Join(g.dir, "none") }, []string{"store.password_file", "no such file"}},
		{"no CA", func(s *config.Store) { s.TLS.CA = good.PasswordFile }, []string{"store.tls.ca", "holds no certificate"}},
		{"key of another", func(s *config.Store) { s.TLS.Key = g.others.Key }, []string{"store.tls.cert and store.tls.key", "match"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := g.cfg
			c.change(&cfg.Store)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			external, err := externalStore(cfg.Store)
			if err == nil {
				external.Prefix, external.RequestTimeout = externalPrefix, time.Second
				external.Logger = slog.New(slog.DiscardHandler)
				var s store.Store
				if s, err = etcd.OpenExternal(ctx, external); err == nil {
					_ = s.Close()
					t.Fatal("opened")
				}
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

// A certificate that is renewed on disk is shown by the next connection, without a restart.
func TestRenewedCertificateIsShown(t *testing.T) {
	t.Parallel()
	ca := etcdtest.NewAuthority(t)
	first, second := ca.Issue("first"), ca.Issue("second")
	cfg := config.StoreTLS{CA: first.CA, Cert: first.Cert, Key: first.Key}
	secure, err := storeTLS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(second.Cert, first.Cert), os.Rename(second.Key, first.Key)); err != nil {
		t.Fatal(err)
	}
	shown, err := secure.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if cert, err := x509.ParseCertificate(shown.Certificate[0]); err != nil || cert.Subject.CommonName != "second" {
		t.Fatalf("shown: %v, %v", cert.Subject, err)
	}
}
