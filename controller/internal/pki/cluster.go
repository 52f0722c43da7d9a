package pki

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/seal"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	// ClusterKey is where the store keeps the cluster's identity.
	ClusterKey = "cluster"
	// KeyFile is the file in the data directory that opens what is sealed.
	KeyFile = "seal.key"
	// TokenFile is the file in the data directory that holds the admin token.
	TokenFile = "admin.token"

	clusterSchema = 1
)

// Cluster is what the first controller made and every later one opens.
type Cluster struct {
	ID  string
	CA  *CA
	Key *seal.Key
	// TokenFile is where the admin token was written, if it was by this host.
	TokenFile string
	// Created says that this call made the cluster.
	Created bool
}

// OpenCluster opens the cluster of the store, and makes one in an empty store: its id, CA, key file and admin token. dir is the data directory; it
// must exist. Safe against another controller doing the same.
func OpenCluster(ctx context.Context, s store.Store, dir string, now func() time.Time) (*Cluster, error) {
	kv, err := s.Get(ctx, ClusterKey)
	if errors.Is(err, store.ErrNotFound) {
		if err := createCluster(ctx, s, dir, now); err != nil {
			return nil, err
		}
		c, err := OpenCluster(ctx, s, dir, now)
		if c != nil {
			c.Created = true
		}
		return c, err
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's identity: %w", err)
	}
	rec, err := readCluster(kv.Value)
	if err != nil {
		return nil, err
	}
	keyPath := filepath.Join(dir, KeyFile)
	key, err := seal.LoadKey(keyPath)
	if err != nil {
		return nil, fmt.Errorf("cluster %s exists, and its secrets are sealed with a key file: %w (copy it from the controller that made the cluster, or from its backup)", rec.GetClusterId(), err)
	}
	caKey, err := key.Open(rec.GetCaKeySealed(), []byte(ClusterKey))
	if err != nil {
		return nil, fmt.Errorf("the key file %s is not that of cluster %s, which the store holds: put %s from the controller that made the cluster, or from its backup, in its place (%w)",
			keyPath, rec.GetClusterId(), KeyFile, err)
	}
	ca, err := Load(rec.GetClusterId(), rec.GetCaCertificate(), caKey, now)
	if err != nil {
		return nil, err
	}
	return &Cluster{ID: rec.GetClusterId(), CA: ca, Key: key, TokenFile: filepath.Join(dir, TokenFile)}, nil
}

func readCluster(value []byte) (*statev1.ClusterRecord, error) {
	rec := &statev1.ClusterRecord{}
	if err := proto.Unmarshal(value, rec); err != nil {
		return nil, fmt.Errorf("read the cluster's identity: %w", err)
	}
	if rec.GetSchemaVersion() != clusterSchema {
		return nil, fmt.Errorf("the store was written by another version: cluster record has schema %d, this controller knows %d", rec.GetSchemaVersion(), clusterSchema)
	}
	return rec, nil
}

func createCluster(ctx context.Context, s store.Store, dir string, now func() time.Time) error {
	keyPath := filepath.Join(dir, KeyFile)
	key, err := seal.LoadKey(keyPath)
	made := errors.Is(err, seal.ErrNoKey)
	if made {
		key, err = seal.CreateKey(keyPath)
	}
	if err != nil {
		return err
	}
	id := domain.NewID(now())
	_, cert, caKey, err := Create(id, now)
	if err != nil {
		return err
	}
	sealed, err := key.Seal(caKey, []byte(ClusterKey))
	if err != nil {
		return err
	}
	// The file first: a hash whose token nobody has would lock everybody out.
	token := NewSecret()
	if err := writeToken(dir, token); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(token))
	value, err := proto.Marshal(&statev1.ClusterRecord{
		SchemaVersion: clusterSchema, ClusterId: id, CaCertificate: cert, CaKeySealed: sealed, AdminTokenSha256: sum[:],
	})
	if err != nil {
		return fmt.Errorf("encode the cluster's identity: %w", err)
	}
	res, err := s.Commit(ctx, []store.Txn{{
		Conditions: []store.Condition{store.KeyAbsent(ClusterKey)},
		Ops:        []store.Op{store.Put(ClusterKey, value)},
	}})
	if err != nil {
		return fmt.Errorf("store the cluster's identity: %w", err)
	}
	if res[0].Succeeded {
		return nil
	}
	// Another controller was faster; its token counts, and its key.
	if err := os.Remove(filepath.Join(dir, TokenFile)); err != nil {
		return fmt.Errorf("another controller made the cluster; remove the admin token of ours: %w", err)
	}
	if made {
		if err := os.Remove(keyPath); err != nil {
			return fmt.Errorf("another controller made the cluster; remove the key file of ours: %w", err)
		}
	}
	return nil
}

// ResetAdminToken makes a new admin token, in the data directory's file and by its hash in the store; the old one is worth nothing then.
func ResetAdminToken(ctx context.Context, s store.Store, dir string) (path string, err error) {
	kv, err := s.Get(ctx, ClusterKey)
	if err != nil {
		return "", fmt.Errorf("read the cluster's identity: %w", err)
	}
	rec, err := readCluster(kv.Value)
	if err != nil {
		return "", err
	}
	token := NewSecret()
	sum := sha256.Sum256([]byte(token))
	rec.AdminTokenSha256 = sum[:]
	value, err := proto.Marshal(rec)
	if err != nil {
		return "", fmt.Errorf("encode the cluster's identity: %w", err)
	}
	res, err := s.Commit(ctx, []store.Txn{{
		Conditions: []store.Condition{store.ModRevisionEquals(ClusterKey, kv.ModRevision)},
		Ops:        []store.Op{store.Put(ClusterKey, value)},
	}})
	if err != nil {
		return "", fmt.Errorf("store the admin token's hash: %w", err)
	}
	if !res[0].Succeeded {
		return "", errors.New("the cluster's record changed meanwhile: run it again")
	}
	return filepath.Join(dir, TokenFile), writeToken(dir, token)
}

// AdminTokenSHA256 reads the hash of the admin token that counts.
func AdminTokenSHA256(ctx context.Context, s store.Store) ([]byte, error) {
	kv, err := s.Get(ctx, ClusterKey)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's identity: %w", err)
	}
	rec, err := readCluster(kv.Value)
	return rec.GetAdminTokenSha256(), err
}

// TokenFileHolds reports whether the file holds the token with that hash.
func TokenFileHolds(path string, hash []byte) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the admin token: %w", err)
	}
	n := len(text)
	if n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	sum := sha256.Sum256(text)
	return subtle.ConstantTimeCompare(sum[:], hash) == 1, nil
}

// writeToken replaces the token's file at once and durably, readable by its owner alone.
func writeToken(dir, token string) error {
	f, err := os.CreateTemp(dir, ".admin.token-*") // 0600
	if err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, TokenFile))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write the admin token: %w", err), os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
