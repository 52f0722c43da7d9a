package reconcile

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// failureKind is what an error means for the next try; the table is in the driver contract.
type failureKind int

const (
	failRetry     failureKind = iota // again, with backoff
	failSoon                         // again at once: the key was busy, or the answer was lost
	failSlow                         // again, but it takes somebody's help: no room, no credentials
	failPermanent                    // not again until what is wanted changes
)

func kindOf(err error) failureKind {
	f := fault.From(err)
	switch f.Reason {
	case metav1.Reason_REASON_BUSY:
		return failSoon
	case metav1.Reason_REASON_NOT_OURS:
		return failPermanent
	}
	switch f.Code {
	case codes.InvalidArgument, codes.OutOfRange, codes.PermissionDenied, codes.Unimplemented, codes.DataLoss, codes.AlreadyExists:
		return failPermanent
	case codes.ResourceExhausted, codes.Unauthenticated:
		return failSlow
	case codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		return failSoon
	}
	return failRetry
}

// outcomeUnknown says that the call may or may not have had its effect.
func outcomeUnknown(err error) bool {
	switch fault.From(err).Code {
	case codes.DeadlineExceeded, codes.Canceled, codes.Unavailable, codes.Unknown, codes.Aborted:
		return true
	}
	return false
}

const (
	backoffMin  = 200 * time.Millisecond
	backoffMax  = 30 * time.Second
	backoffSlow = 5 * time.Second
	slowMax     = time.Minute
)

// delay is how long to wait before the next try after so many failures in a row; jitter is in [0,1).
func delay(kind failureKind, failures int, jitter float64) time.Duration {
	least, most := backoffMin, backoffMax
	switch kind {
	case failPermanent:
		return never
	case failSoon:
		least, most = 50*time.Millisecond, 5*time.Second
	case failSlow:
		least, most = backoffSlow, slowMax
	}
	d := least
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	d = min(d, most)
	return d - time.Duration(jitter*0.2*float64(d))
}

// problem is why an object is not as wanted, in the words of a status.
type problem struct {
	reason    string
	message   string
	what      string // the message without when it is tried next
	kind      failureKind
	retry     time.Duration // never: not before something changes
	permanent bool
}

// problemOf puts an error into the words of a status and says when it is tried again.
func problemOf(doing string, err error, failures int) problem {
	f := fault.From(err)
	kind := kindOf(err)
	p := problem{kind: kind, retry: delay(kind, failures, rand.Float64()), permanent: kind == failPermanent}
	p.reason = reasonOf(f)
	p.what = fmt.Sprintf("%s: %s", doing, f.Error())
	p.message = p.what + "; not tried again until it is changed"
	if !p.permanent {
		p.retryIn(p.retry)
	}
	return p
}

// retryIn says when it is tried next.
func (p *problem) retryIn(d time.Duration) {
	p.retry = d
	p.message = p.what + "; next try in " + people(d)
}

func reasonOf(f *fault.Error) string {
	if f.Reason == metav1.Reason_REASON_UNSPECIFIED {
		return metav1.Reason_REASON_BACKEND_FAILED.String()[len("REASON_"):]
	}
	return fault.ReasonName(f.Reason)
}

// people is a duration as people read it.
func people(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	}
	return d.Round(time.Second).String()
}
