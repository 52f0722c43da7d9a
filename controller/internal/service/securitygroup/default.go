package securitygroup

import (
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Default is the id of a project's default group. When the project has none yet, its creation is added to w, on condition that nobody else makes it meanwhile.
func Default(cache *state.Cache, w *state.Writer, project string, now time.Time) (id string) {
	if id := cache.ByName(project, state.KindSecurityGroup, domain.DefaultSecurityGroupName); id != "" {
		return id
	}
	g := domain.DefaultSecurityGroup(project, now)
	nameKey := state.NameKey(project, state.KindSecurityGroup, domain.DefaultSecurityGroupName)
	w.Require(store.KeyAbsent(nameKey))
	w.PutSecurityGroup(&statev1.SecurityGroupRecord{SchemaVersion: 1, SecurityGroup: g})
	w.PutText(nameKey, g.GetMeta().GetId())
	return g.GetMeta().GetId()
}
