package placement

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/state"
)

// TakeOver looks for lost executors once, and names those that are missing.
func (s *Stepper) TakeOver(ctx context.Context) error {
	if err := s.w.takeOver(ctx); err != nil {
		return err
	}
	return s.Executors(ctx)
}

// Executors names the executors that are missing.
func (s *Stepper) Executors(ctx context.Context) error {
	waiting := map[string]state.Kind{}
	for _, kind := range []state.Kind{state.KindVolume, state.KindSnapshot, state.KindImage} {
		for _, row := range s.w.Cache.Find(state.Query{Kind: kind}).Rows {
			s.w.noteWaiting(waiting, row)
		}
	}
	return s.w.chooseAll(ctx, waiting)
}
