// Package request is the one path of every mutation: it makes request ids idempotent, commits, retries when somebody else was faster, and waits
// until the writer's next read sees what it wrote.
package request

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// maxTries bounds how often a mutation is worked out anew because the object changed meanwhile.
const maxTries = 32

// compressedFrom is the size of an answer, in bytes, from which it is kept compressed.
const compressedFrom = 16 << 10

// Runner runs mutations.
type Runner struct {
	Store store.Store
	Cache *state.Cache
	Now   func() time.Time
}

// Call says what a mutation is, for its request id.
type Call struct {
	Method    string        // for example "/limiquantix.compute.v1.VMService/CreateVM"
	Body      proto.Message // the request; its request_id does not count
	RequestID string
	// Secret says that the answer is not kept: a repetition is then refused with REQUEST_ID_REUSED.
	Secret bool
}

// Plan is what one try would write. No operations and no conditions mean that nothing has to change.
type Plan[R proto.Message] struct {
	Txn         store.Txn
	Response    R // its etags are filled from the commit
	ObjectID    string
	OperationID string
	// Refused turns a condition that did not hold into a final error; nil or a nil result means: try again.
	Refused func(c store.Check) error
}

// Do runs a mutation: try works out from the cache what to write, and is called again when that was overtaken. That nothing has to change, or that it
// cannot be done, counts only if the cache was not behind the store: another controller may have written meanwhile. R must be a pointer to a message
// whose zero value new makes.
func Do[R proto.Message](ctx context.Context, r *Runner, call Call, try func(ctx context.Context) (*Plan[R], error)) (R, error) {
	var none R
	var v domain.Violations
	domain.CheckRequestID(&v, call.RequestID)
	if err := v.Err(); err != nil {
		return none, err
	}
	var key string
	var sum []byte
	if call.RequestID != "" {
		key, sum = state.RequestKey(caller.Principal(ctx), call.RequestID), bodySum(call.Body)
		kv, err := r.Store.Get(ctx, key)
		if err == nil {
			return replay[R](ctx, r, call, sum, kv)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return none, Fault(err)
		}
	}
	fresh := false
	for range maxTries {
		seen := r.Cache.Revision()
		plan, err := try(ctx)
		if !fresh && (err != nil || len(plan.Txn.Ops) == 0) {
			// No commit would show that this was worked out from the past.
			behind, wait := r.catchUp(ctx, seen)
			if wait != nil {
				return none, Fault(wait)
			}
			if fresh = true; behind {
				continue
			}
		}
		if err != nil {
			// What stands in the way may be this very request's own effect, sent before and done meanwhile.
			if key != "" {
				if kv, gone := r.Store.Get(ctx, key); gone == nil {
					return replay[R](ctx, r, call, sum, kv)
				}
			}
			return none, err
		}
		txn := plan.Txn
		if key != "" {
			rec, err := record(r, call, sum, plan)
			if err != nil {
				return none, err
			}
			txn.Conditions = append([]store.Condition{store.KeyAbsent(key)}, txn.Conditions...)
			txn.Ops = append(txn.Ops[:len(txn.Ops):len(txn.Ops)], store.Put(key, rec))
		}
		if len(txn.Ops) == 0 {
			return plan.Response, nil
		}
		results, err := r.Store.Commit(ctx, []store.Txn{txn})
		if err != nil {
			return none, Fault(err)
		}
		res := results[0]
		if res.Succeeded {
			if err := r.Cache.Wait(ctx, res.Revision); err != nil {
				return none, Fault(err)
			}
			if len(plan.Txn.Ops) > 0 {
				Stamp(plan.Response, res.Revision)
			}
			return plan.Response, nil
		}
		for _, c := range res.Unmet() {
			if key != "" && c.Condition.Key == key {
				kv, err := r.Store.Get(ctx, key)
				if err != nil {
					return none, Fault(err)
				}
				return replay[R](ctx, r, call, sum, kv)
			}
		}
		for _, c := range res.Unmet() {
			if plan.Refused == nil {
				break
			}
			if err := plan.Refused(c); err != nil {
				return none, err
			}
		}
		if err := r.Cache.Wait(ctx, res.Revision); err != nil {
			return none, Fault(err)
		}
	}
	return none, fault.New(metav1.Reason_REASON_BUSY, "%s: the object changed %d times meanwhile", call.Method, maxTries).WithRemedy("try again")
}

// catchUp waits until the cache knows what the store does, other controllers' writes included; behind says that it did not at revision seen.
func (r *Runner) catchUp(ctx context.Context, seen int64) (behind bool, err error) {
	now, err := r.Store.List(ctx, state.RequestPrefix, store.ListOptions{Limit: 1})
	if err != nil {
		return false, err
	}
	return now.Revision > seen, r.Cache.Wait(ctx, now.Revision)
}

func record[R proto.Message](r *Runner, call Call, sum []byte, plan *Plan[R]) ([]byte, error) {
	rec := &statev1.RequestRecord{
		SchemaVersion: 1, Method: call.Method, BodySha256: sum, ObjectId: plan.ObjectID, OperationId: plan.OperationID,
		CreateTime: timestamppb.New(r.Now()),
	}
	if !call.Secret {
		b, err := proto.Marshal(plan.Response)
		if err != nil {
			return nil, fmt.Errorf("encode answer: %w", err)
		}
		rec.Response = b
		if len(b) >= compressedFrom {
			if rec.Response, err = state.Compress(plan.Response); err != nil {
				return nil, fmt.Errorf("encode answer: %w", err)
			}
			rec.Compressed = true
		}
	}
	return proto.Marshal(rec)
}

// replay answers a repetition. The answer's etag is the revision of the commit that it was given for, which is the request record's own.
func replay[R proto.Message](ctx context.Context, r *Runner, call Call, sum []byte, kv store.KV) (R, error) {
	var none R
	var rec statev1.RequestRecord
	if err := proto.Unmarshal(kv.Value, &rec); err != nil {
		return none, fault.New(metav1.Reason_REASON_INTERNAL, "request record %s: %w", kv.Key, err)
	}
	switch {
	case rec.GetMethod() != call.Method || !bytes.Equal(rec.GetBodySha256(), sum):
		return none, fault.New(metav1.Reason_REASON_REQUEST_ID_REUSED, "request_id %q was used before with another request", call.RequestID).
			WithRemedy("use a new request_id for a new request")
	case call.Secret:
		return none, fault.New(metav1.Reason_REASON_REQUEST_ID_REUSED, "request_id %q was answered already, and its answer is shown once", call.RequestID).
			WithRemedy("ask again with a new request_id")
	}
	out := none.ProtoReflect().New().Interface().(R)
	decode := proto.Unmarshal
	if rec.GetCompressed() {
		decode = state.Decompress
	}
	if err := decode(rec.GetResponse(), out); err != nil {
		return none, fault.New(metav1.Reason_REASON_INTERNAL, "request record %s: %w", kv.Key, err)
	}
	Stamp(out, kv.ModRevision)
	return out, Fault(r.Cache.Wait(ctx, kv.ModRevision))
}

// Stamp fills the empty etags of the objects in an answer.
func Stamp(m proto.Message, revision int64) {
	msg := m.ProtoReflect()
	msg.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			return true
		}
		if o, ok := v.Message().Interface().(interface{ GetMeta() *metav1.ObjectMeta }); ok && o.GetMeta() != nil && o.GetMeta().GetEtag() == "" {
			o.GetMeta().Etag = domain.Etag(revision)
		}
		return true
	})
}

// bodySum is the checksum of a request without its request_id.
func bodySum(m proto.Message) []byte {
	body := proto.Clone(m)
	ref := body.ProtoReflect()
	if fd := ref.Descriptor().Fields().ByName("request_id"); fd != nil {
		ref.Clear(fd)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		b = []byte(err.Error())
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// Fault turns an error of the store or of a context into one for callers. nil stays nil, and a fault stays what it is.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, store.ErrNoSpace):
		return fault.New(metav1.Reason_REASON_STORE_NO_SPACE, "%w", err).WithRemedy("make room where the message says; writes are taken again then")
	case errors.Is(err, store.ErrTooLarge):
		return fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "%w", err).WithRemedy("make the object smaller")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		return fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "%w", err).WithRemedy("try again; with the same request_id this is safe")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.From(err)
	}
	return fault.New(metav1.Reason_REASON_INTERNAL, "%w", err)
}
