package config

import (
	"net/url"
	"strings"
)

// validate finds what can never work of the store's keys; bad takes the key and what is wrong with it.
func (s Store) validate(bad func(key, format string, args ...any)) {
	if s.Kind == StoreMemory && len(s.Endpoints) > 0 {
		bad("store.endpoints", "only a store of kind etcd has endpoints")
	}
	if len(s.Endpoints) == 0 {
		for _, key := range s.setForCluster() {
			bad(key, "is for an etcd cluster run by others, and store.endpoints names none")
		}
	}
	var schemes []string
	for _, e := range s.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
			bad("store.endpoints", "%q is not a URL such as https://10.0.0.1:2379", e)
			continue
		}
		switch {
		case u.User != nil:
			bad("store.endpoints", "%s holds a user: say so in store.user and store.password_file", u.Redacted())
		case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			bad("store.endpoints", "%q has more than a host and a port", e)
		case u.Port() == "":
			bad("store.endpoints", "%q has no port; etcd's is 2379", e)
		case s.User != "" && u.Scheme == "http" && !isLoopback(u.Hostname()):
			bad("store.user", "the password would travel to %s in the clear: use an https endpoint", e)
		}
		schemes = append(schemes, u.Scheme)
	}
	s.validateTLS(schemes, bad)
	if (s.User == "") != (s.PasswordFile == "") {
		bad("store.user", "user and password_file go together; one is missing")
	}
}

func (s Store) validateTLS(schemes []string, bad func(key, format string, args ...any)) {
	plain, secure := 0, 0
	for _, scheme := range schemes {
		if scheme == "https" {
			secure++
		} else {
			plain++
		}
	}
	switch {
	case plain > 0 && secure > 0:
		bad("store.endpoints", "some are http and some https; a cluster has one or the other")
	case plain > 0 && s.TLS != (StoreTLS{}):
		bad("store.tls", "the endpoints are http, and TLS would not be used: write https://")
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") {
		bad("store.tls", "cert and key go together; one is missing")
	}
}

// setForCluster lists the keys that are set and concern an etcd cluster alone.
func (s Store) setForCluster() []string {
	var set []string
	for _, k := range []struct{ key, value string }{
		{"store.tls.ca", s.TLS.CA},
		{"store.tls.cert", s.TLS.Cert},
		{"store.tls.key", s.TLS.Key},
		{"store.user", s.User},
		{"store.password_file", s.PasswordFile},
	} {
		if k.value != "" {
			set = append(set, k.key)
		}
	}
	return set
}
