package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/limiquantix/limiquantix/test/stack"
)

// defineForeign defines a domain that is not ours and returns its definition.
func defineForeign(t *testing.T, s *stack.Stack) string {
	t.Helper()
	file := filepath.Join(s.Dir, "foreign.xml")
	xml := `<domain type='qemu'><name>precious</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Node.Virsh(t.Context(), "define", file); err != nil {
		t.Fatal(err)
	}
	out, err := s.Node.Virsh(t.Context(), "dumpxml", "precious")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
