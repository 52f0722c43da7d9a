package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestParseManifest(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("a", 64)
	good := `{"name":"kvm","version":"1.0.0-rc.1+b2","kinds":["compute","storage"],"sha256":"` + sum + `","privileges":["root"],"executable":"limiquantix-plugin-kvm"}`
	if m, err := ParseManifest([]byte(good)); err != nil || m.Name != "kvm" || len(m.DriverKinds()) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, tc := range []struct{ from, to, says string }{
		{`"kvm"`, `"../kvm"`, "name"},
		{`"kvm"`, `"KVM"`, "name"},
		{`"limiquantix-plugin-kvm"`, `"../../bin/sh"`, "plain file name"},
		{`"limiquantix-plugin-kvm"`, `"/bin/sh"`, "plain file name"},
		{`"limiquantix-plugin-kvm"`, `".."`, "plain file name"},
		{`"compute"`, `"quantum"`, "unknown kind"},
		{`"compute"`, `"Storage"`, "unknown kind"},
		{`"compute"`, `"storage"`, "twice"},
		{`["compute","storage"]`, `[]`, "at least one"},
		{sum, strings.Repeat("A", 64), "sha256"},
		{`"1.0.0-rc.1+b2"`, `""`, "version"},
		{`"root"`, `"a b"`, "privilege"},
		{`"name"`, `"extra":1,"name"`, "unknown field"},
		{good, good + good, "after"},
		{good, `[]`, "array"},
		{good, good + strings.Repeat(" ", maxManifestBytes), "more than"},
	} {
		if _, err := ParseManifest([]byte(strings.Replace(good, tc.from, tc.to, 1))); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s for %s: %v, want %q", tc.to[:min(len(tc.to), 40)], tc.from[:min(len(tc.from), 40)], err, tc.says)
		}
	}
}

func TestBinariesThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil  func(bin string) error
		reason metav1.Reason
		says   string
	}{
		"missing":      {os.Remove, metav1.Reason_REASON_PLUGIN_MISSING, "no plugin binary"},
		"changed":      {func(bin string) error { return os.WriteFile(bin, []byte("#!/bin/sh\n#"), 0o755) }, metav1.Reason_REASON_PLUGIN_INVALID, "sha256"},
		"not runnable": {func(bin string) error { return os.Chmod(bin, 0o644) }, metav1.Reason_REASON_PLUGIN_INVALID, "not executable"},
		"writable":     {func(bin string) error { return os.Chmod(bin, 0o757) }, metav1.Reason_REASON_PLUGIN_INVALID, "by everybody"},
		"a link": {func(bin string) error {
			return errors.Join(os.Rename(bin, bin+"2"), os.Symlink(bin+"2", bin))
		}, metav1.Reason_REASON_PLUGIN_INVALID, "opening"},
		"a directory": {func(bin string) error { return errors.Join(os.Remove(bin), os.Mkdir(bin, 0o755)) }, metav1.Reason_REASON_PLUGIN_INVALID, "not a plain file"},
		"no manifest": {func(bin string) error { return os.Remove(filepath.Join(filepath.Dir(bin), ManifestName)) }, metav1.Reason_REASON_PLUGIN_MISSING, "no plugin manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			bin := filepath.Join(dir, "plugin")
			if err := os.WriteFile(bin, []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := WriteManifest(dir, &Manifest{Name: "fake", Version: "1", Kinds: []string{"compute"}, Executable: "plugin"}); err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(bin); err != nil {
				t.Fatal(err)
			}
			_, err := Launch(t.Context(), Spec{Dir: dir, RuntimeDir: shortDir(t)})
			if !fault.Is(err, tc.reason) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %s with %q", err, tc.reason, tc.says)
			}
		})
	}
}
