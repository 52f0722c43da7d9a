package domain

import (
	"strconv"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Etag is the version of an object: the store's revision of its record.
func Etag(revision int64) string { return "r" + strconv.FormatInt(revision, 36) }

// CheckEtag is nil when etag is empty or current, else STALE_ETAG.
func CheckEtag(etag string, revision int64) error {
	if etag == "" || etag == Etag(revision) {
		return nil
	}
	return fault.New(metav1.Reason_REASON_STALE_ETAG, "etag %q is stale, the object is at %q", etag, Etag(revision)).
		WithRemedy("read the object again, apply the change to what it is now, and retry")
}
