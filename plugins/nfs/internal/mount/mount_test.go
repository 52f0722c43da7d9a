package mount

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func params(kv ...string) map[string]string {
	m := map[string]string{"server": "nas.example", "export": "/vol/vms"}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func TestParse(t *testing.T) {
	p, err := Parse(params("options", "soft,timeo=50,nconnect=4", "preallocation", "full"), "preallocation")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.argument(); p.Source() != "nas.example:/vol/vms" || !strings.HasPrefix(got, "vers=4.2,nosuid,nodev,noexec,") || !strings.HasSuffix(got, ",soft,timeo=50,nconnect=4") {
		t.Errorf("%s, %s", p.Source(), got)
	}
	if p, err := Parse(params("server", "2001:db8::1", "version", "3", "options", "nolock")); err != nil || p.Source() != "[2001:db8::1]:/vol/vms" {
		t.Error(p, err)
	}
	for _, tc := range []struct{ field, name, value string }{
		{"server", "server", ""},
		{"server", "server", "-o"},
		{"server", "server", "a b"},
		{"server", "server", "a:/b"},
		{"server", "server", "fe80::1%eth0"},
		{"server", "server", "a/b"},
		{"export", "export", ""},
		{"export", "export", "vol"},
		{"export", "export", "/vol/.."},
		{"export", "export", "/vol/"},
		{"export", "export", "/vol a"},
		{"export", "export", "/a\nb"},
		{"version", "version", "2"},
		{"version", "version", "4"},
		{"version", "version", "4.2,suid"},
		{"options", "options", "suid"},
		{"options", "options", "exec"},
		{"options", "options", "soft=1"},
		{"options", "options", "timeo=x"},
		{"options", "options", "timeo=0"},
		{"options", "options", "port=70000"},
		{"options", "options", "sec=none"},
		{"options", "options", "acdirmax=60"},
		{"options", "options", "bind"},
		{"options", "options", "vers=2"},
		{"options", "options", "nolock"},
		{"options", "options", "context=x"},
		{"pth", "pth", "/x"},
	} {
		_, err := Parse(params(tc.name, tc.value))
		f := fault.From(err)
		if err == nil || f.Reason != metav1.Reason_REASON_INVALID_FIELD || len(f.Violations) != 1 || f.Violations[0].Field != "parameters."+tc.field {
			t.Errorf("%s=%q: %v", tc.name, tc.value, err)
		}
	}
}

// What mount.nfs of nfs-utils 2.6 says, each in a class of its own.
func TestFailuresAreToldApart(t *testing.T) {
	p, failed := Params{Server: "nas", Export: "/vol", Version: "4.2"}, errors.New("exit status 32")
	for text, want := range map[string]metav1.Reason{
		"mount.nfs: access denied by server while mounting nas:/vol":                              metav1.Reason_REASON_ACCESS_DENIED,
		"mount.nfs: Operation not permitted for nas:/vol on /x":                                   metav1.Reason_REASON_ACCESS_DENIED,
		"mount.nfs: mounting nas:/vol failed, reason given by server: No such file or directory":  metav1.Reason_REASON_INVALID_FIELD,
		"mount.nfs: requested NFS version or transport protocol is not supported for /x":          metav1.Reason_REASON_INVALID_FIELD,
		"mount.nfs: an incorrect mount option was specified for /x":                               metav1.Reason_REASON_INVALID_FIELD,
		"mount.nfs: Connection refused for nas:/vol on /x":                                        metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		"mount.nfs: Connection timed out for nas:/vol on /x":                                      metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		"mount.nfs: No route to host for nas:/vol on /x":                                          metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		"mount.nfs: Failed to resolve server nas: Name or service not known":                      metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		"mount: /x: bad option; for several filesystems (e.g. nfs) you might need a mount helper": metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		"mount.nfs: Input/output error":                                                           metav1.Reason_REASON_BACKEND_FAILED,
	} {
		if err := classify(context.Background(), failed, p, text); !fault.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := classify(ended, failed, p, ""); !fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) {
		t.Error(err)
	}
}

func TestFindIn(t *testing.T) {
	const list = "22 1 254:0 / / rw - ext4 /dev/vda rw\n" +
		"60 22 0:44 / /var/lib/a\\040b rw,nosuid shared:1 - nfs4 nas:/vol rw,vers=4.2\n" +
		"61 22 0:45 / /mnt rw - nfs nas:/one rw\n62 61 0:46 / /mnt rw - nfs [::1]:/two rw\n"
	if s, f, ok := findIn(list, "/var/lib/a b"); !ok || s != "nas:/vol" || f != "nfs4" {
		t.Error(s, f, ok)
	}
	if s, _, ok := findIn(list, "/mnt"); !ok || s != "[::1]:/two" {
		t.Error(s, ok)
	}
	if _, _, ok := findIn(list, "/mnt/x"); ok {
		t.Error("found what is not mounted")
	}
}
