package rbdpool

import (
	"errors"
	"syscall"

	"github.com/ceph/go-ceph/rados"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// errnoOf is the error number that a Ceph library answered; 0 for other errors.
func errnoOf(err error) syscall.Errno {
	var op rados.OperationError
	if errors.As(err, &op) && op.OpError != nil {
		err = op.OpError
	}
	var code interface{ ErrorCode() int }
	if !errors.As(err, &code) {
		return 0
	}
	if n := code.ErrorCode(); n < 0 {
		return syscall.Errno(-n)
	}
	return syscall.Errno(code.ErrorCode())
}

func is(err error, numbers ...syscall.Errno) bool {
	got := errnoOf(err)
	for _, n := range numbers {
		if got == n {
			return true
		}
	}
	return false
}

// fenced reports whether the cluster refuses this very client for good.
func fenced(err error) bool { return is(err, syscall.ESHUTDOWN) }

// backend gives an answer of a Ceph library its reason. What depends on the call, such as an absent or existing image, is told apart by the caller before.
func backend(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	reason, remedy := metav1.Reason_REASON_BACKEND_FAILED, ""
	switch errnoOf(err) {
	case syscall.ENOSPC, syscall.EDQUOT:
		reason, remedy = metav1.Reason_REASON_NO_SPACE, "free room in the Ceph pool, or raise its quota"
	case syscall.ETIMEDOUT:
		reason, remedy = metav1.Reason_REASON_BACKEND_TIMEOUT, "look at the cluster's health (ceph -s); the outcome is unknown, issue the call again"
	case syscall.EACCES, syscall.EPERM:
		reason, remedy = metav1.Reason_REASON_ACCESS_DENIED, "give the Ceph user the capabilities mon 'profile rbd' and osd 'profile rbd pool=POOL'"
	case syscall.ESHUTDOWN:
		reason, remedy = metav1.Reason_REASON_BACKEND_UNAVAILABLE, "this client was fenced: ensure the pool again"
	case syscall.ENOTCONN:
		reason, remedy = metav1.Reason_REASON_BACKEND_UNAVAILABLE, "ensure the pool again"
	case syscall.EBUSY:
		reason, remedy = metav1.Reason_REASON_BUSY, "retry soon"
	}
	e := fault.New(reason, format+": %w", append(args, err)...)
	if remedy != "" {
		e = e.WithRemedy("%s", remedy)
	}
	return e
}
