package securitygroup

import (
	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// maxNewRefs is how many groups one change can begin to refer to: each is a condition of its commit.
const maxNewRefs = 100

// refs finds the groups that rules of a group refer to.
type refs struct {
	s             *Service
	project       string
	ownID, ownKey string // its own name counts before it is stored
}

func (s *Service) refsOf(g *networkv1.SecurityGroup) refs {
	return refs{s, g.GetMeta().GetProjectId(), g.GetMeta().GetId(), g.GetMeta().GetName()}
}

// id is the id of a group of the project, by id or name; "" when there is none.
func (r refs) id(ref string) string {
	if ref == r.ownID || ref == r.ownKey {
		return r.ownID
	}
	row := r.s.cfg.Cache.Resolve(state.KindSecurityGroup, r.project, ref)
	if row == nil || row.Deleting || row.Project != r.project {
		return ""
	}
	return row.ID
}

func (r refs) known(ref string) bool { return r.id(ref) != "" }

// hold makes a commit conditional on the groups that rules refer to and did not before: none of them is deleted meanwhile.
func (r refs) hold(w *state.Writer, rules []*networkv1.SecurityRule, before *state.Row) error {
	held := map[string]bool{r.ownID: true}
	if before != nil {
		for _, rule := range before.SecurityGroup().GetSecurityGroup().GetSpec().GetRules() {
			held[rule.GetSecurityGroupId()] = true
		}
	}
	begun := 0
	for _, rule := range rules {
		id := rule.GetSecurityGroupId()
		if id == "" || held[id] {
			continue
		}
		held[id] = true
		if begun++; begun > maxNewRefs {
			return fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "rules refer to more than %d groups that they did not refer to before", maxNewRefs).
				WithRemedy("add them in several steps")
		}
		if row := r.s.cfg.Cache.Row(state.KindSecurityGroup, id); row != nil {
			w.Same(row)
		}
	}
	return nil
}

// settle checks rules and makes them what is stored.
func (r refs) settle(v *domain.Violations, field string, rules, present []*networkv1.SecurityRule) {
	domain.CheckRules(v, field, rules, r.known)
	if len(*v) == 0 {
		domain.SettleRules(v, field, rules, present, r.id, r.s.cfg.Now())
	}
}
