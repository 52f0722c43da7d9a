package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
)

// externalStore reads the files that the keys of an etcd cluster name.
func externalStore(cfg config.Store) (etcd.ExternalConfig, error) {
	external := etcd.ExternalConfig{Endpoints: cfg.Endpoints, Username: cfg.User}
	var err error
	if cfg.PasswordFile != "" {
		if external.Password, err = readPassword(cfg.PasswordFile); err != nil {
			return external, fmt.Errorf("store.password_file: %w", err)
		}
	}
	external.TLS, err = storeTLS(cfg.TLS)
	return external, err
}

// storeTLS is nil when no file is named.
func storeTLS(cfg config.StoreTLS) (*tls.Config, error) {
	if cfg == (config.StoreTLS{}) {
		return nil, nil //nolint:nilnil // the system's trust is enough
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("store.tls.ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.tls.ca: %s holds no certificate", cfg.CA)
		}
	}
	if cfg.Cert == "" {
		return t, nil
	}
	if err := private(cfg.Key); err != nil {
		return nil, fmt.Errorf("store.tls.key: %w", err)
	}
	if _, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key); err != nil {
		return nil, fmt.Errorf("store.tls.cert and store.tls.key: %w", err)
	}
	// Read again for each connection: a certificate that is renewed needs no restart.
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		return &pair, err
	}
	return t, nil
}

// readPassword reads the first line, which must be the only one.
func readPassword(path string) (string, error) {
	if err := private(path); err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case password == "":
		return "", fmt.Errorf("%s is empty", path)
	case strings.ContainsAny(password, "\r\n"):
		return "", fmt.Errorf("%s holds more than one line", path)
	}
	return password, nil
}

// private refuses a secret that every user of the machine can read.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return fmt.Errorf("%s can be read by anyone (mode %04o): chmod o= it", path, info.Mode().Perm())
	}
	return nil
}
