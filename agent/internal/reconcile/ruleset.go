package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// ruleState is what is known of a rule set.
type ruleState struct {
	setback
	applied map[string]told    // by driver: what is in force there
	refused map[string]refusal // by driver: what can never be in force there
	tried   map[string]told    // by driver: what it was asked to put in force
	waits   string             // what it waits for
}

// refusal is a driver's word on a rule set that it does not take as it is.
type refusal struct {
	version string
	err     error
}

func (e *Engine) ruleState(id string) *ruleState {
	s := e.net.rules[id]
	if s == nil {
		s = &ruleState{applied: map[string]told{}, refused: map[string]refusal{}, tried: map[string]told{}}
		e.net.rules[id] = s
	}
	return s
}

func ruleSetName(d *agentv1.DesiredRuleSet) string {
	if d.GetName() != "" {
		return d.GetName()
	}
	return d.GetRuleSet().GetRuleSetId()
}

// reconcileRuleSet puts a rule set in force at every driver that serves a port with it.
func (e *Engine) reconcileRuleSet(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetRuleSet()
	id := d.GetRuleSet().GetRuleSetId()
	k, doing := ruleKey(id), "putting the rules of security group "+ruleSetName(d)+" in force"
	e.progress.doing(k, doing)
	drivers := e.ruleDrivers(id)
	if missing := e.setsMissing(d); missing != "" && len(drivers) > 0 {
		words := fmt.Sprintf("the members of security group %s, which its rules name, are not assigned to this node", missing)
		e.mu.Lock()
		s := e.ruleState(id)
		news := s.waits != words
		s.waits = words
		e.mu.Unlock()
		e.progress.waiting(k, words, never)
		if news { // a port that hears of it asks for the rules again
			e.dependents(k)
		}
		return never, resultWait
	}
	e.mu.Lock()
	e.ruleState(id).waits = ""
	e.mu.Unlock()
	err := e.each(drivers, func(driver string) error { return e.applyRules(ctx, w, driver) })
	if ctx.Err() != nil {
		return never, resultFailed
	}
	return e.rulesTold(w, drivers, doing, err)
}

// rulesTold says how it went.
func (e *Engine) rulesTold(w *want, drivers []string, doing string, err error) (time.Duration, string) {
	d := w.obj.GetRuleSet()
	id, k := d.GetRuleSet().GetRuleSetId(), ruleKey(d.GetRuleSet().GetRuleSetId())
	rep := &agentv1.RuleSetReport{RuleSetId: id, Generation: d.GetRuleSet().GetGeneration(), InForce: err == nil}
	e.mu.Lock()
	s := e.ruleState(id)
	if err == nil {
		s.setback = setback{}
		e.mu.Unlock()
		if len(drivers) > 0 && e.current(w) {
			e.reporter.RuleSet(rep)
		}
		return never, resultOK
	}
	s.failures++
	tries := s.failures
	pr := problemOf(doing, err, tries)
	s.problem, s.reason = err.Error(), pr.reason
	refused := false
	for _, r := range s.refused {
		refused = refused || r.version == w.obj.GetVersion()
	}
	e.mu.Unlock()
	e.progress.failed(k, doing, err, tries, pr.retry)
	e.log.Warn("rule set is not in force", "rule_set", id, "name", d.GetName(), "error", err, "retry", pr.retry)
	if refused && e.current(w) {
		rep.Reason, rep.Message = pr.reason, pr.message
		e.reporter.RuleSet(rep)
	}
	e.dependents(k)
	return pr.retry, resultFailed
}

// ruleDrivers are the drivers that serve a port with a rule set.
func (e *Engine) ruleDrivers(id string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	drivers := map[string]bool{}
	for _, w := range e.wants {
		port := w.obj.GetPort()
		if port.GetAbsent() || !slices.Contains(port.GetSpec().GetRuleSetIds(), id) {
			continue
		}
		if s := e.net.networks[port.GetSpec().GetNetworkId()]; s != nil && s.driver != "" {
			drivers[s.driver] = true
		}
	}
	return slices.Sorted(maps.Keys(drivers))
}

// setsOf are the address sets that rules refer to, each once.
func setsOf(r *driverv1.RuleSet) (out []string) {
	for _, rule := range r.GetRules() {
		if id := rule.GetAddressSetId(); id != "" && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// setsMissing names an address set that the rules refer to and that is not wanted here yet; empty = none.
func (e *Engine) setsMissing(d *agentv1.DesiredRuleSet) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range setsOf(d.GetRuleSet()) {
		if e.wants[setKey(id)] == nil {
			return id
		}
	}
	return ""
}

// applyRules puts a rule set in force at one driver, unless it is, or was refused for good.
func (e *Engine) applyRules(ctx context.Context, w *want, driver string) error {
	d := w.obj.GetRuleSet()
	id := d.GetRuleSet().GetRuleSetId()
	p, err := e.pluginFor(driver)
	if err != nil {
		return err
	}
	now := told{p.Instance, w.obj.GetVersion()}
	e.mu.Lock()
	s := e.ruleState(id)
	s.tried[driver] = now
	applied, refused := s.applied[driver], s.refused[driver]
	e.mu.Unlock()
	switch {
	case applied == now:
		return nil
	case refused.err != nil && refused.version == now.version:
		return refused.err
	}
	req := &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{
		RuleSetId: id, Mark: e.mark(id, d.GetRuleSet().GetGeneration(), 0), Generation: d.GetRuleSet().GetGeneration(),
		Rules: d.GetRuleSet().GetRules(), EgressDefaultDeny: d.GetRuleSet().GetEgressDefaultDeny(),
	}}
	for _, set := range setsOf(d.GetRuleSet()) {
		req.AddressSets = append(req.AddressSets, e.wholeSet(set, p))
	}
	err = e.rulesCall(ctx, driver, id, "ApplyRuleSet", func(ctx context.Context) error {
		_, err := e.plugins.Network(driver).ApplyRuleSet(ctx, req)
		return err
	})
	if err != nil {
		if kindOf(err) == failPermanent {
			e.mu.Lock()
			s.refused[driver] = refusal{now.version, err}
			e.mu.Unlock()
		}
		return err
	}
	e.mu.Lock()
	s.applied[driver] = now
	delete(s.refused, driver)
	rec := e.recordOf(ruleKey(id))
	rec.Kind, rec.ID = realised.KindRuleSet, id
	if rec.Generations == nil {
		rec.Generations = map[string]int64{}
	}
	rec.Generations[driver] = d.GetRuleSet().GetGeneration()
	e.store.Put(rec)
	e.mu.Unlock()
	for _, set := range req.GetAddressSets() {
		e.noteSet(set.GetAddressSetId(), driver, toldSet{p.Instance, set.GetGeneration(), set.GetMembers()})
		e.queue.add(setKey(set.GetAddressSetId())) // it may have changed meanwhile
	}
	e.dependents(ruleKey(id))
	e.lookSoon(driver) // its ports have another generation in force
	return nil
}

// wholeSet is an address set as a driver gets it with a rule set: what it was told last, or another generation.
func (e *Engine) wholeSet(id string, p Plugin) *driverv1.AddressSet {
	e.mu.Lock()
	members := e.wants[setKey(id)].object().GetAddressSet().GetMembers()
	had := e.setState(id).told[p.Name]
	e.mu.Unlock()
	out := &driverv1.AddressSet{AddressSetId: id, Mark: e.mark(id, 0, 0), Members: members, Generation: had.generation}
	if had.instance != p.Instance || !slices.Equal(had.members, members) {
		out.Generation = e.countSet(id, p.Name, 0)
	}
	return out
}

// rulesInForce says what a port waits for before it has its rule sets, or why it never gets them; a rule set of which some generation is in force is no reason to wait.
func (e *Engine) rulesInForce(d *agentv1.DesiredPort, p Plugin) (wait string, err error) {
	var missing []string
	e.mu.Lock()
	for _, id := range d.GetSpec().GetRuleSetIds() {
		w := e.wants[ruleKey(id)]
		if w == nil {
			wait = fmt.Sprintf("security group %s is not assigned to this node", id)
			continue
		}
		s := e.ruleState(id)
		refused := s.refused[p.Name]
		switch {
		case s.applied[p.Name].instance == p.Instance:
		case refused.err != nil && refused.version == w.obj.GetVersion() && e.recordOf(ruleKey(id)).Generations[p.Name] != 0: // the last good one stays
		case refused.err != nil && refused.version == w.obj.GetVersion():
			f := *fault.From(refused.err)
			f.Message = fmt.Sprintf("the rules of security group %s are refused: %s", ruleSetName(w.obj.GetRuleSet()), f.Message)
			err = &f
		default:
			wait = fmt.Sprintf("the rules of security group %s are not in force yet", ruleSetName(w.obj.GetRuleSet()))
			if why := s.waits + s.problem; why != "" {
				wait += ": " + why
			}
			if s.tried[p.Name] != (told{p.Instance, w.obj.GetVersion()}) { // what failed is tried again by itself
				missing = append(missing, id)
			}
		}
	}
	e.mu.Unlock()
	for _, id := range missing {
		e.queue.add(ruleKey(id))
	}
	return wait, err
}

// rulesLost has the rule sets of a port applied again, when a driver says that it does not know one that it was told. Should that be no help it is not done each time.
func (e *Engine) rulesLost(d *agentv1.DesiredPort, driver string, err error, tries int) {
	if !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || tries&(tries-1) != 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range d.GetSpec().GetRuleSetIds() {
		delete(e.ruleState(id).applied, driver)
		delete(e.ruleState(id).tried, driver)
	}
}
