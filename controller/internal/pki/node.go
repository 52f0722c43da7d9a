package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// ErrRequest says that a certificate request is malformed, is not signed by its own key, or has a key of a kind that is not taken.
var ErrRequest = errors.New("pki: certificate request refused")

// Request is a certificate request that was checked. All that counts in it is the key: its subject and extensions are ignored.
type Request struct {
	publicKey any
	// KeySHA256 is the SHA-256 of the public key (SubjectPublicKeyInfo), hex.
	KeySHA256 string
}

// ParseRequest checks a PKCS #10 request, DER: that whoever made it holds the key, and that the key is ECDSA P-256 or P-384, or Ed25519.
func ParseRequest(der []byte) (*Request, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not a PKCS #10 request in DER", ErrRequest)
	}
	switch key := csr.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("%w: an ECDSA key must be on P-256 or P-384, not %s", ErrRequest, key.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("%w: the key must be ECDSA P-256, ECDSA P-384 or Ed25519, not %s", ErrRequest, csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature is not by its own key", ErrRequest)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return &Request{publicKey: csr.PublicKey, KeySHA256: hex.EncodeToString(sum[:])}, nil
}

// Issued is a node's certificate.
type Issued struct {
	DER    []byte
	Serial Serial
	// Expires is when it ends.
	Expires time.Time
}

// IssueNode makes a node's client certificate for the request's key.
func (ca *CA) IssueNode(req *Request, nodeID string, serial Serial) (Issued, error) {
	number, err := serial.number()
	if err != nil {
		return Issued{}, err
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: "limiquantix node " + nodeID},
		URIs:         []*url.URL{nodeURI(ca.clusterID, nodeID)},
		NotBefore:    ca.now().Add(-skew),
		NotAfter:     ca.now().Add(NodeLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, req.publicKey, ca.key)
	if err != nil {
		return Issued{}, fmt.Errorf("pki: make the certificate of node %s: %w", nodeID, err)
	}
	return Issued{DER: der, Serial: serial, Expires: template.NotAfter}, nil
}

const nodePath = "/node/"

func nodeURI(clusterID, nodeID string) *url.URL {
	return &url.URL{Scheme: "limiquantix", Host: clusterID, Path: nodePath + nodeID}
}

// NodeIDFromCert is the node that a verified certificate names; an error when it names none, or one of another cluster.
func NodeIDFromCert(cert *x509.Certificate, clusterID string) (string, error) {
	if len(cert.URIs) != 1 {
		return "", errors.New("pki: the certificate names no node")
	}
	uri := cert.URIs[0]
	id, ok := strings.CutPrefix(uri.Path, nodePath)
	if !ok || uri.Scheme != "limiquantix" || id == "" || strings.Contains(id, "/") {
		return "", errors.New("pki: the certificate names no node")
	}
	if uri.Host != clusterID {
		return "", errors.New("pki: the certificate is of another cluster")
	}
	return id, nil
}
