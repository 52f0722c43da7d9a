package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ServerName is in every controller's certificate, whatever address it is dialled by.
const ServerName = "limiquantix-controller"

const (
	identityFile = "identity.json"
	keyFile      = "node.key"
	certFile     = "node.crt"
	caFile       = "ca.crt"
)

// ErrNone says that the node has not enrolled.
var ErrNone = errors.New("this node has not enrolled")

// Facts say who the node is.
type Facts struct {
	NodeID    string `json:"node_id"`
	NodeName  string `json:"node_name"`
	ClusterID string `json:"cluster_id"`
}

// Identity is the node's, on disk and in memory. All methods may be called at once.
type Identity struct {
	Facts
	dir string
	key *ecdsa.PrivateKey

	mu   sync.Mutex
	cert tls.Certificate
	ca   *x509.Certificate
}

// Load reads the identity in dir; ErrNone when there is none.
func Load(dir string) (*Identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNone
	} else if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	id := &Identity{dir: dir}
	if err := json.Unmarshal(data, &id.Facts); err != nil || id.NodeID == "" || id.ClusterID == "" {
		return nil, fmt.Errorf("identity: %s is damaged (%v): enrol the node anew", identityFile, err)
	}
	if id.key, err = readKey(dir); err != nil {
		return nil, err
	}
	ca, err := readPEM(filepath.Join(dir, caFile), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	leaf, err := readPEM(filepath.Join(dir, certFile), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	return id, id.use(leaf, ca)
}

// use checks and takes a certificate.
func (id *Identity) use(leafDER, caDER []byte) error {
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		return fmt.Errorf("identity: CA certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return fmt.Errorf("identity: certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(id.key.Public()) {
		return errors.New("identity: the certificate is not of this node's key")
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("identity: the certificate is not by the CA: %w", err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.ca, id.cert = ca, tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: id.key, Leaf: leaf}
	return nil
}

// save writes the identity; identity.json last, so that half an identity is none.
func (id *Identity) save() error {
	id.mu.Lock()
	leaf, ca := id.cert.Certificate[0], id.ca.Raw
	id.mu.Unlock()
	facts, err := json.MarshalIndent(id.Facts, "", "  ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})},
		{certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})},
		{identityFile, append(facts, '\n')},
	} {
		if err := writeFile(filepath.Join(id.dir, f.name), f.data); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
	}
	return nil
}

// Expires is when the certificate ends; RenewAt when two thirds of its life are over.
func (id *Identity) Expires() time.Time { return id.leaf().NotAfter }

// RenewAt is when to renew the certificate.
func (id *Identity) RenewAt() time.Time {
	l := id.leaf()
	return l.NotBefore.Add(l.NotAfter.Sub(l.NotBefore) * 2 / 3)
}

func (id *Identity) leaf() *x509.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert.Leaf
}

// TLS is the configuration for a connection to a controller: both sides prove who they are, by this cluster's CA alone.
func (id *Identity) TLS() *tls.Config {
	id.mu.Lock()
	defer id.mu.Unlock()
	pool := x509.NewCertPool()
	pool.AddCert(id.ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: ServerName, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{id.cert},
	}
}

// request is a certificate request for the node's key. What it says of the node's name is nobody's business: the controller decides.
func request(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "limiquantix-agent"}}, key)
}

// ensureKey reads the node's key, or makes it: a repeated enrolment uses the same.
func ensureKey(dir string) (*ecdsa.PrivateKey, error) {
	key, err := readKey(dir)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return key, writeFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func readKey(dir string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(filepath.Join(dir, keyFile), "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("identity: %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("identity: %s holds no ECDSA key", keyFile)
	}
	return key, nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("identity: %s holds no %s", path, kind)
	}
	return block.Bytes, nil
}

// writeFile writes a file 0600, whole or not at all, also when the power fails.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
