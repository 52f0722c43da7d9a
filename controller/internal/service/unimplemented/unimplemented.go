// Package unimplemented answers for the services and methods that later releases bring: NOT_IMPLEMENTED, and which release that is.
package unimplemented

import (
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// StorageMethod is the answer of a storage method.
func StorageMethod(method string) error {
	return later(method, "0.2", "the pool \"local\" and disks that live and die with their VM are there now: give the disk \"inline\" in CreateVM")
}

// NetworkMethod is the answer of a network method.
func NetworkMethod(method string) error {
	return later(method, "0.3", "user-mode NICs with port forwards are there now: give the NIC \"user\" in CreateVM")
}

func later(method, release, remedy string) error {
	return fault.New(metav1.Reason_REASON_NOT_IMPLEMENTED, "%s comes with release %s", method, release).
		WithRemedy("%s", remedy).WithMetadata("release", release)
}
