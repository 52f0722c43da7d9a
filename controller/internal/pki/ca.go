// Package pki is the cluster's own certificate authority: it signs the agent port's server certificate and every node's client certificate. There
// is no other issuer, and nothing outside the cluster trusts it. Agents know it by its hash, which stands in their join token.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

const (
	// ServerName is in every server certificate of the agent port: agents expect it whatever address they dial.
	ServerName = "limiquantix-controller"

	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 365 * 24 * time.Hour
	// NodeLife is how long a node's certificate is good; agents renew well before.
	NodeLife = 24 * time.Hour
	// skew is how far a node's clock may be behind ours.
	skew = 5 * time.Minute
)

// CA signs for one cluster. It is safe for concurrent use.
type CA struct {
	clusterID string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	now       func() time.Time
}

// Create makes a new CA for a cluster and returns it with its certificate (DER) and its key (PKCS #8, to be sealed).
func Create(clusterID string, now func() time.Time) (ca *CA, certDER, keyDER []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("pki: make the CA's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{CommonName: "limiquantix cluster " + clusterID},
		NotBefore:             now().Add(-skew),
		NotAfter:              now().Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	certDER, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("pki: make the CA's certificate: %w", err)
	}
	keyDER, err = x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("pki: encode the CA's key: %w", err)
	}
	ca, err = Load(clusterID, certDER, keyDER, now)
	return ca, certDER, keyDER, err
}

// Load uses a CA that Create made.
func Load(clusterID string, certDER, keyDER []byte, now func() time.Time) (*CA, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("pki: read the CA's certificate: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("pki: read the CA's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("pki: the CA's key does not belong to its certificate")
	}
	return &CA{clusterID: clusterID, cert: cert, key: key, now: now}, nil
}

// ClusterID is the cluster that the CA is of.
func (ca *CA) ClusterID() string { return ca.clusterID }

// CertificateDER is the CA's certificate. Do not modify it.
func (ca *CA) CertificateDER() []byte { return ca.cert.Raw }

// Hash is the SHA-256 of the CA's certificate in hex, as join tokens carry it.
func (ca *CA) Hash() string {
	sum := sha256.Sum256(ca.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Pool holds the CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// IssueServer makes a key and a certificate for the agent port: for ServerName and for hosts, names or IP addresses. It is made anew at each start
// and never stored. The chain holds the CA too, for agents that know only its hash.
func (ca *CA) IssueServer(hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: make the server's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: randomSerial(),
		Subject:      pkix.Name{CommonName: ServerName},
		DNSNames:     []string{ServerName},
		NotBefore:    ca.now().Add(-skew),
		NotAfter:     ca.now().Add(serverLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" && !slices.Contains(template.DNSNames, h) {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: make the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: read the server's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func randomSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b)
}
