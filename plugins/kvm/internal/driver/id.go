package driver

import (
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/proto/fault"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// checkID refuses what is not a UUID in lower case.
func checkID(id string) error {
	if !uuid.MatchString(id) {
		return fault.Invalid(fault.Violation{Field: "domain_id", Description: "must be a UUID in lower case"})
	}
	return nil
}

// uuidOf is an id, which was checked, as libvirt has it.
func uuidOf(id string) (u libvirt.UUID) {
	b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err == nil {
		copy(u[:], b)
	}
	return u
}

func idOf(u libvirt.UUID) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
