package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/follow"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// accepted is a change that a controller took on.
type accepted struct {
	name   string
	kind   string                 // said before the name: "network "; "" where the command says it
	op     *operationv1.Operation // nil: there was nothing to do
	object proto.Message          // as accepted
	// final reads the object once the change is made, and says what is so now; nil keeps the object as accepted.
	final func(ctx context.Context) (proto.Message, string, error)
	done  string // "created"
	// changes are what an update changed, a line each.
	changes []string
}

// settle waits for changes, in order, and prints what came of them; with noWait it prints the operations instead. many says that programs get a list.
func (s *session) settle(ctx context.Context, c *api.Client, items []accepted, noWait, many bool) error {
	if noWait {
		return s.printOperations(items, many)
	}
	objects, errs := s.await(ctx, c, items)
	return errors.Join(s.printObjects(objects, many), s.join(errs))
}

// await waits for changes, in order, and says what came of each; what is to be printed for programs is returned.
func (s *session) await(ctx context.Context, c *api.Client, items []accepted) (objects []proto.Message, errs []error) {
	for _, it := range items {
		object, err := s.settleOne(ctx, c, it)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		objects = append(objects, object)
	}
	return objects, errs
}

func (s *session) settleOne(ctx context.Context, c *api.Client, it accepted) (proto.Message, error) {
	began := s.Now()
	if it.op != nil {
		rep := s.reporter()
		_, err := follow.Operation(ctx, c, it.op, rep)
		rep.Close()
		if err != nil {
			return nil, err
		}
	}
	object, state := it.object, ""
	if it.final != nil {
		var err error
		if object, state, err = it.final(ctx); err != nil {
			return nil, err
		}
	}
	switch {
	case it.op == nil:
		state = ""
	case state == "":
		state = s.took(began)
	default:
		state += ", " + s.took(began)
	}
	if state != "" {
		state = " (" + state + ")"
	}
	s.say("%s%s %s%s", it.kind, it.name, it.done, state)
	for _, ch := range it.changes {
		s.say("  %s", ch)
	}
	if s.format() == render.Names {
		fmt.Fprintln(s.Out, it.name)
	}
	return object, nil
}

func (s *session) took(since time.Time) string {
	return s.Now().Sub(since).Round(100 * time.Millisecond).String()
}

func (s *session) printObjects(objects []proto.Message, many bool) error {
	if s.format() != render.AsJSON && s.format() != render.AsYAML {
		return nil
	}
	if many {
		return printList(s, objects, nil, nil)
	}
	for _, o := range objects {
		if err := printOne(s, o, "", nil); err != nil {
			return err
		}
	}
	return nil
}

// printOperations prints the ids of operations, for a script to wait for; for programs the operations themselves.
func (s *session) printOperations(items []accepted, many bool) error {
	var ops []*operationv1.Operation
	for _, it := range items {
		if it.op != nil {
			ops = append(ops, it.op)
		}
	}
	switch {
	case s.format() == render.AsJSON || s.format() == render.AsYAML:
		if many {
			return printList(s, ops, nil, nil)
		}
		for _, op := range ops {
			if err := printOne(s, op, "", nil); err != nil {
				return err
			}
		}
	default:
		for _, op := range ops {
			fmt.Fprintln(s.Out, op.GetId())
		}
	}
	return nil
}

// join makes one failure of several: all but the last are shown at once, and the first decides on the exit code.
func (s *session) join(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs[:len(errs)-1] {
		failure.Print(s.Err, failure.From(err), s.wantsJSON())
	}
	last := *failure.From(errs[len(errs)-1])
	last.Exit = failure.From(errs[0]).Exit
	return &last
}

func nonNil(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
