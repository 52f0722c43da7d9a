package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const controllerPath = "/controller/"

// IssueController makes a key and a client certificate with which one controller calls another on the agent port. Like the server's it is made anew
// at each start and never stored; only who holds the CA's key, so a controller of this cluster, can make one.
func (ca *CA) IssueController(id string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: make the controller's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: randomSerial(),
		Subject:      pkix.Name{CommonName: "limiquantix controller " + id},
		URIs:         []*url.URL{{Scheme: "limiquantix", Host: ca.clusterID, Path: controllerPath + id}},
		NotBefore:    ca.now().Add(-skew),
		NotAfter:     ca.now().Add(serverLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: make the certificate of controller %s: %w", id, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// ControllerIDFromCert is the controller that a verified certificate names; an error when it names none, or one of another cluster.
func ControllerIDFromCert(cert *x509.Certificate, clusterID string) (string, error) {
	if len(cert.URIs) != 1 {
		return "", errors.New("pki: the certificate names no controller")
	}
	uri := cert.URIs[0]
	id, ok := strings.CutPrefix(uri.Path, controllerPath)
	if !ok || uri.Scheme != "limiquantix" || id == "" || strings.Contains(id, "/") {
		return "", errors.New("pki: the certificate names no controller")
	}
	if uri.Host != clusterID {
		return "", errors.New("pki: the certificate is of another cluster")
	}
	return id, nil
}
