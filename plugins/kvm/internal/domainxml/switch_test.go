package domainxml_test

import (
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
)

// Only the disk that is meant is switched, to a qcow2 file; no format is left to be guessed.
func TestSwitchNamesEveryDisk(t *testing.T) {
	t.Parallel()
	text, err := domainxml.Switch("vdb", map[string]bool{"vda": true, "vdb": true, "sda": true}, "/pool/<o>.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	flat := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		`<disk name="sda" snapshot="no"></disk> <disk name="vda" snapshot="no"></disk>`,
		`<disk type="file" name="vdb" snapshot="external"> <driver type="qcow2"></driver> <source file="/pool/&lt;o&gt;.qcow2"></source> </disk>`,
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("no %s in %s", want, flat)
		}
	}
}
