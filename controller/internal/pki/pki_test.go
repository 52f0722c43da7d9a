package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"
)

func testCA(t *testing.T, cluster string) *CA {
	t.Helper()
	ca, cert, key, err := Create(cluster, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(cluster, cert, key, time.Now)
	if err != nil || again.Hash() != ca.Hash() {
		t.Fatal(err)
	}
	return again
}

func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"limiquantix-controller"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestNodeCertificate(t *testing.T) {
	t.Parallel()
	ca := testCA(t, "c1")
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, key := range map[string]crypto.Signer{"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "Ed25519": ed} {
		req, err := ParseRequest(csr(t, key))
		if err != nil {
			t.Fatal(name, err)
		}
		issued, err := ca.IssueNode(req, "n1", FirstSerial())
		if err != nil {
			t.Fatal(name, err)
		}
		cert, err := x509.ParseCertificate(issued.DER)
		if err != nil {
			t.Fatal(err)
		}
		opts := x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if _, err := cert.Verify(opts); err != nil {
			t.Error(name, err)
		}
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if _, err := cert.Verify(opts); err == nil {
			t.Error(name, "a node can be a server")
		}
		if len(cert.DNSNames) != 0 || cert.Subject.CommonName == "admin" || cert.IsCA {
			t.Error(name, "the request's wishes were followed")
		}
		if id, err := NodeIDFromCert(cert, "c1"); id != "n1" || err != nil {
			t.Error(name, id, err)
		}
		if _, err := NodeIDFromCert(cert, "c2"); err == nil {
			t.Error(name, "a certificate of another cluster names a node")
		}
		if SerialOf(cert) != issued.Serial {
			t.Error(name, "serial", SerialOf(cert), issued.Serial)
		}
		if life := time.Until(cert.NotAfter); life > NodeLife || life < NodeLife-time.Minute {
			t.Error(name, life)
		}
	}
}

func TestRequestsRefused(t *testing.T) {
	t.Parallel()
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged := csr(t, ecKey(t, elliptic.P256()))
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{
		"rsa": csr(t, weak), "p-521": csr(t, ecKey(t, elliptic.P521())), "forged": forged, "empty": nil, "noise": []byte("noise"),
	} {
		if _, err := ParseRequest(der); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	ca := testCA(t, "c1")
	cert, err := ca.IssueServer("host.example", "10.1.2.3", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{ServerName, "host.example", "10.1.2.3"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: host}); err != nil {
			t.Error(host, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: testCA(t, "c1").Pool()}); err == nil {
		t.Error("another CA vouches for it")
	}
	if _, err := NodeIDFromCert(cert.Leaf, "c1"); err == nil {
		t.Error("the server's certificate names a node")
	}
}

func TestLoadRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	_, cert, _, err := Create("c", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, _, key, err := Create("c", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load("c", cert, key, time.Now); err == nil {
		t.Error("taken")
	}
}

func TestSerials(t *testing.T) {
	t.Parallel()
	one := FirstSerial()
	two := one.After()
	three := two.After()
	for name, ok := range map[string]bool{
		"itself":                       two.Accepts(two),
		"the one before":               two.Accepts(one),
		"not two before":               !three.Accepts(one),
		"not the next":                 !one.Accepts(two),
		"not another of the same":      !two.Accepts(one.After()),
		"the one before, still":        two.Instead().Accepts(one),
		"not what was replaced":        !two.Instead().Accepts(two),
		"not after enrolling anew":     !one.Reenrolled().Accepts(one),
		"nothing when nothing is kept": !Serial("").Accepts(""),
		"not the first's zero":         !one.Accepts("00000000000000000000000000000000"),
		"not foreign ones":             !one.Accepts("ff"),
	} {
		if !ok {
			t.Error(name)
		}
	}
}

func TestJoinToken(t *testing.T) {
	t.Parallel()
	ca := testCA(t, "c1")
	token := NewJoinToken("id-1", ca.Hash())
	read, err := ParseJoinToken(token.String() + "\n")
	if err != nil || read != token || !read.Matches(token.SecretSHA256()) || read.Matches(NewJoinToken("id-1", ca.Hash()).SecretSHA256()) {
		t.Fatal(read, err)
	}
	for _, text := range []string{
		"", "lq1", "lq2" + token.String()[3:], token.String() + ".x", "lq1.a/b." + token.Secret + "." + token.CAHash,
		"lq1.." + token.Secret + "." + token.CAHash, "lq1.id.short." + token.CAHash, "lq1.id." + token.Secret + ".beef",
		"lq1." + strings.Repeat("a", 100) + "." + token.Secret + "." + token.CAHash,
	} {
		if _, err := ParseJoinToken(text); !errors.Is(err, ErrToken) {
			t.Errorf("%q taken", text)
		}
	}
}
