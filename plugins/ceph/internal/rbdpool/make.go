package rbdpool

import (
	"context"
	"errors"
	"maps"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// made is what came of making an RBD image: the record, and keys of the index to write with it.
type made struct {
	record any
	also   entries
}

// build makes one RBD image by f and enters its record under key. If f fails, or another node was faster (errLost), nothing of it stays.
func (s *Session) build(kind, id, key string, intend func(image string) entries, f func(image string) (made, error)) error {
	image := newName(kind, id)
	intent := s.intentKey(image)
	s.mu.Lock()
	s.making[image] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.making, image)
		s.mu.Unlock()
	}()
	first := entries{intent: {}}
	if intend != nil {
		maps.Copy(first, intend(image))
	}
	if err := s.x.put(first); err != nil {
		return err
	}
	m, err := f(image)
	if err == nil {
		err = s.alive()
	}
	if err == nil {
		err = s.x.update(s.ctx, []string{key}, func(found entries) (entries, error) {
			if found[key] != nil {
				return nil, errLost
			}
			change := entries{key: encode(m.record), intent: nil}
			maps.Copy(change, m.also)
			return change, nil
		})
	}
	if err == nil {
		return nil
	}
	if undo := s.discard(image, key, intent); undo != nil {
		s.left()
		if !fault.Is(undo, fault.From(err).Reason) {
			err = errors.Join(err, undo)
		}
	}
	return err
}

func (s *Session) intentKey(image string) string { return keyIntent + s.owner.NodeID + "/" + image }

// discard removes what was being made. When the record was entered although nobody knows, it stays.
func (s *Session) discard(image, key, intent string) error {
	entered := false
	err := s.x.update(context.WithoutCancel(s.ctx), []string{key, intent}, func(found entries) (entries, error) {
		r, err := decode[struct {
			Image string `json:"image"`
		}](found[key])
		if err != nil {
			return nil, err
		}
		if entered = r != nil && r.Image == image; entered || found[intent] == nil {
			return nil, nil
		}
		return entries{intent: nil, keyRemove + image: {}}, nil
	})
	if err != nil || entered {
		return err
	}
	_, err = s.removeImage(image)
	return err
}
