package placement

import (
	"context"
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

// A change that comes in the moment in which notes are due is not lost with it.
func TestChangeBesideDueNotes(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	cache := state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- cache.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	<-cache.Loaded()
	sub, err := cache.Subscribe(cache.Revision())
	if err != nil {
		t.Fatal(err)
	}
	const id = "01a20a49-ac9a-7c2e-84d1-94201e74bddf"
	var out state.Writer
	out.Put(state.Key(state.KindVM, id), &statev1.VMRecord{SchemaVersion: 1, Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}}})
	txn, err := out.Txn()
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Commit(ctx, []store.Txn{txn})
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Wait(ctx, res[0].Revision); err != nil {
		t.Fatal(err)
	}
	q := newQueue()
	q.due = time.Now().Add(-time.Second)
	w := &worker{Config: Config{Store: s, Cache: cache, Now: time.Now}}
	changes, err := w.await(ctx, q, sub)
	if err != nil || len(changes) != 1 || changes[0].Row().ID != id {
		t.Errorf("%v, %v", changes, err)
	}
	if !q.due.IsZero() {
		t.Error("the notes are still due")
	}
}
