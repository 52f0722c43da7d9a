package request

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// late is a store whose watches tell nothing until let is closed, as seen by a controller that was stopped or is slow.
type late struct {
	store.Store
	let chan struct{}
}

func (l *late) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	w, err := l.Store.Watch(ctx, prefix, from)
	return lateWatcher{w, l.let}, err
}

type lateWatcher struct {
	store.Watcher
	let chan struct{}
}

func (w lateWatcher) Next(ctx context.Context) (store.Batch, error) {
	select {
	case <-w.let:
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	}
	return w.Watcher.Next(ctx)
}

// What another controller has written is seen before a mutation is answered with "nothing has to change", or with an error.
func TestNothingToDoIsNotSaidFromThePast(t *testing.T) {
	t.Parallel()
	for name, absent := range map[string]error{"nothing to change": nil, "an error": errors.New("it is gone")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &late{Store: memory.Open(memory.Options{}), let: make(chan struct{})}
			defer s.Close()
			cache := state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- cache.Run(ctx) }()
			defer func() { cancel(); <-ran }()
			<-cache.Loaded()
			const id = "01a20a49-ac9a-7c2e-84d1-94201e74bddf"
			key := state.Key(state.KindVM, id)
			var w state.Writer // by another controller
			w.Put(key, &statev1.VMRecord{SchemaVersion: 1, Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}}})
			txn, err := w.Txn()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(ctx, []store.Txn{txn}); err != nil {
				t.Fatal(err)
			}
			tries := 0
			remove := func() error {
				_, err := Do(ctx, &Runner{Store: s, Cache: cache, Now: time.Now}, Call{Method: "m", Body: &computev1.DeleteVMRequest{Id: id}},
					func(context.Context) (*Plan[*computev1.DeleteVMResponse], error) {
						plan := &Plan[*computev1.DeleteVMResponse]{Response: &computev1.DeleteVMResponse{}}
						row := cache.Row(state.KindVM, id)
						if tries++; tries == 1 {
							close(s.let) // only now does the cache hear of it
						}
						if row == nil {
							return plan, absent
						}
						var w state.Writer
						w.Same(row)
						w.Delete(key)
						var err error
						plan.Txn, err = w.Txn()
						return plan, err
					})
				return err
			}
			if err := remove(); err != nil {
				t.Error("refused from the past:", err)
			}
			if _, err := s.Get(ctx, key); !errors.Is(err, store.ErrNotFound) {
				t.Error("the deletion was acknowledged and did nothing", err)
			}
			if err := remove(); !errors.Is(err, absent) {
				t.Error("now it is true, and the answer is", err)
			}
		})
	}
}

// A request that is sent again while its first sending is still under way has one effect and one answer, although the first stands in its own way.
func TestRepetitionOvertakenByItself(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	cache := state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- cache.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	<-cache.Loaded()
	r := &Runner{Store: s, Cache: cache, Now: time.Now}
	taken := errors.New("the name is taken")
	var create func(id string, meanwhile func()) (*computev1.CreateVMResponse, error)
	create = func(id string, meanwhile func()) (*computev1.CreateVMResponse, error) {
		return Do(ctx, r, Call{Method: "m", Body: &computev1.CreateVMRequest{}, RequestID: "one"}, func(context.Context) (*Plan[*computev1.CreateVMResponse], error) {
			meanwhile()
			name := state.NameKey("default", state.KindVM, "a")
			if cache.ByName("default", state.KindVM, "a") != "" {
				return nil, taken
			}
			var w state.Writer
			w.Require(store.KeyAbsent(name))
			w.PutText(name, id)
			txn, err := w.Txn()
			return &Plan[*computev1.CreateVMResponse]{Txn: txn, Response: &computev1.CreateVMResponse{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}}}}, err
		})
	}
	again, err := create("second", func() {
		if first, err := create("first", func() {}); err != nil || first.GetVm().GetMeta().GetId() != "first" {
			t.Error(first, err)
		}
	})
	if err != nil || again.GetVm().GetMeta().GetId() != "first" {
		t.Errorf("the repetition is answered with %v, %v", again, err)
	}
}
