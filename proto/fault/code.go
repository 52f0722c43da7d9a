package fault

import (
	"google.golang.org/grpc/codes"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// reasonCodes is the code of each reason, as the comments of meta.v1.Reason state it; a test holds the two against each other.
var reasonCodes = map[metav1.Reason]codes.Code{
	metav1.Reason_REASON_INVALID_FIELD:           codes.InvalidArgument,
	metav1.Reason_REASON_UNKNOWN_FIELD:           codes.InvalidArgument,
	metav1.Reason_REASON_NOT_FOUND:               codes.NotFound,
	metav1.Reason_REASON_NAME_TAKEN:              codes.AlreadyExists,
	metav1.Reason_REASON_REQUEST_ID_REUSED:       codes.AlreadyExists,
	metav1.Reason_REASON_SPEC_CONFLICT:           codes.AlreadyExists,
	metav1.Reason_REASON_STALE_ETAG:              codes.Aborted,
	metav1.Reason_REASON_BUSY:                    codes.Aborted,
	metav1.Reason_REASON_BEING_DELETED:           codes.FailedPrecondition,
	metav1.Reason_REASON_WRONG_STATE:             codes.FailedPrecondition,
	metav1.Reason_REASON_UNAUTHENTICATED:         codes.Unauthenticated,
	metav1.Reason_REASON_FORBIDDEN:               codes.PermissionDenied,
	metav1.Reason_REASON_NOT_IMPLEMENTED:         codes.Unimplemented,
	metav1.Reason_REASON_NO_CAPABILITY:           codes.Unimplemented,
	metav1.Reason_REASON_NOT_LEADER:              codes.FailedPrecondition,
	metav1.Reason_REASON_STORE_UNAVAILABLE:       codes.Unavailable,
	metav1.Reason_REASON_STORE_NO_SPACE:          codes.ResourceExhausted,
	metav1.Reason_REASON_NO_SPACE:                codes.ResourceExhausted,
	metav1.Reason_REASON_LIMIT_EXCEEDED:          codes.ResourceExhausted,
	metav1.Reason_REASON_PLUGIN_UNAVAILABLE:      codes.Unavailable,
	metav1.Reason_REASON_PLUGIN_QUARANTINED:      codes.FailedPrecondition,
	metav1.Reason_REASON_PLUGIN_MISSING:          codes.NotFound,
	metav1.Reason_REASON_PLUGIN_INVALID:          codes.FailedPrecondition,
	metav1.Reason_REASON_PLUGIN_PANIC:            codes.Internal,
	metav1.Reason_REASON_BACKEND_UNAVAILABLE:     codes.Unavailable,
	metav1.Reason_REASON_BACKEND_FAILED:          codes.Internal,
	metav1.Reason_REASON_BACKEND_TIMEOUT:         codes.DeadlineExceeded,
	metav1.Reason_REASON_BACKEND_CREDENTIALS:     codes.Unauthenticated,
	metav1.Reason_REASON_DOMAIN_NOT_FOUND:        codes.NotFound,
	metav1.Reason_REASON_NOT_OURS:                codes.PermissionDenied,
	metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE: codes.FailedPrecondition,
	metav1.Reason_REASON_POOL_NOT_FOUND:          codes.NotFound,
	metav1.Reason_REASON_VOLUME_NOT_FOUND:        codes.NotFound,
	metav1.Reason_REASON_VOLUME_IN_USE:           codes.FailedPrecondition,
	metav1.Reason_REASON_SNAPSHOT_NOT_FOUND:      codes.NotFound,
	metav1.Reason_REASON_IMAGE_NOT_FOUND:         codes.NotFound,
	metav1.Reason_REASON_IMAGE_REFUSED:           codes.InvalidArgument,
	metav1.Reason_REASON_CHECKSUM_MISMATCH:       codes.DataLoss,
	metav1.Reason_REASON_IMAGE_IN_USE:            codes.FailedPrecondition,
	metav1.Reason_REASON_SIZE_OUT_OF_RANGE:       codes.OutOfRange,
	metav1.Reason_REASON_NODE_UNREACHABLE:        codes.Unavailable,
	metav1.Reason_REASON_NODE_IN_USE:             codes.FailedPrecondition,
	metav1.Reason_REASON_JOIN_TOKEN_REFUSED:      codes.PermissionDenied,
	metav1.Reason_REASON_STALE_EPOCH:             codes.FailedPrecondition,
	metav1.Reason_REASON_UNSCHEDULABLE:           codes.FailedPrecondition,
	metav1.Reason_REASON_REVISION_COMPACTED:      codes.OutOfRange,
	metav1.Reason_REASON_BAD_PAGE_TOKEN:          codes.InvalidArgument,
	metav1.Reason_REASON_OPERATION_ENDED:         codes.FailedPrecondition,
	metav1.Reason_REASON_CANCELLED:               codes.Canceled,
	metav1.Reason_REASON_SUPERSEDED:              codes.Aborted,
	metav1.Reason_REASON_INTERNAL:                codes.Internal,
	metav1.Reason_REASON_NETWORK_NOT_FOUND:       codes.NotFound,
	metav1.Reason_REASON_BRIDGE_FILTER_INACTIVE:  codes.FailedPrecondition,
	metav1.Reason_REASON_POOL_UNHEALTHY:          codes.Unavailable,
	metav1.Reason_REASON_POOL_IN_USE:             codes.FailedPrecondition,
	metav1.Reason_REASON_SNAPSHOT_IN_USE:         codes.FailedPrecondition,
	metav1.Reason_REASON_DEVICE_MISSING:          codes.Unavailable,
	metav1.Reason_REASON_STALE_FILE:              codes.Unavailable,
	metav1.Reason_REASON_ACCESS_DENIED:           codes.FailedPrecondition,
	metav1.Reason_REASON_SOURCE_REFUSED:          codes.InvalidArgument,
	metav1.Reason_REASON_SOURCE_UNAVAILABLE:      codes.Unavailable,
	metav1.Reason_REASON_QUIESCE_FAILED:          codes.FailedPrecondition,
}

// CodeOf is the gRPC code of a reason; INTERNAL for one outside the registry.
func CodeOf(r metav1.Reason) codes.Code {
	if c, ok := reasonCodes[r]; ok {
		return c
	}
	return codes.Internal
}
