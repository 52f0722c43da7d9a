package reconcile

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// maxPhases bounds what is told of one generation: one whose guest ends again and again passes phases for ever.
const maxPhases = 32

// phases are the steps that a VM passed since a generation of it was taken up, one after the other.
type phases struct {
	generation int64
	list       []*operationv1.OperationPhase
	over       bool // it was as wanted after the last one
}

// enter notes that a step begins. The same one again, after a failure, is one more try of it.
func (p *phases) enter(generation int64, name string, now time.Time) {
	if p.generation != generation || p.over {
		*p = phases{generation: generation}
	}
	if last := p.last(); last != nil && last.GetName() == name && last.GetEndTime() == nil {
		last.Tries++
		return
	}
	p.leave(now)
	if name != "" && len(p.list) < maxPhases {
		p.list = append(p.list, &operationv1.OperationPhase{Name: name, StartTime: timestamppb.New(now), Tries: 1})
	}
}

// await notes that it waits for something that has a name; however often it looks, that is one wait.
func (p *phases) await(generation int64, name string, now time.Time) {
	p.enter(generation, name, now)
	if last := p.last(); last != nil {
		last.Tries = min(last.GetTries(), 1)
	}
}

// settle notes that it is as wanted.
func (p *phases) settle(now time.Time) {
	p.leave(now)
	p.over = true
}

func (p *phases) leave(now time.Time) {
	if last := p.last(); last != nil && last.GetEndTime() == nil {
		last.EndTime, last.Duration = timestamppb.New(now), durationpb.New(now.Sub(last.GetStartTime().AsTime()))
	}
}

func (p *phases) last() *operationv1.OperationPhase {
	if len(p.list) == 0 {
		return nil
	}
	return p.list[len(p.list)-1]
}

// of is a copy of what is to be told about a generation.
func (p *phases) of(generation int64) []*operationv1.OperationPhase {
	if p.generation != generation {
		return nil
	}
	out := make([]*operationv1.OperationPhase, 0, len(p.list))
	for _, one := range p.list {
		out = append(out, proto.CloneOf(one))
	}
	return out
}
