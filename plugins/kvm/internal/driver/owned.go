package driver

import "sync"

// owned remembers which domains are ours, so that their end, too, is told as ours. The zero value is ready.
type owned struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (o *owned) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ids == nil {
		o.ids = map[string]bool{}
	}
	o.ids[id] = true
}

func (o *owned) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ids[id]
}

// drop forgets a domain and says whether it was ours.
func (o *owned) drop(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	had := o.ids[id]
	delete(o.ids, id)
	return had
}
