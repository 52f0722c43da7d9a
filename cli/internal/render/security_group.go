package render

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/rule"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// SecurityGroupColumns are the columns of a table of security groups.
func SecurityGroupColumns(now func() time.Time) []Column[*networkv1.SecurityGroup] {
	type group = *networkv1.SecurityGroup
	return []Column[group]{
		{Title: "NAME", Value: func(g group) string { return g.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(g group) string { return Enum(g.GetStatus().GetPhase(), "SECURITY_GROUP_PHASE_") }},
		{Title: "RULES", Value: func(g group) string { return fmt.Sprint(len(g.GetSpec().GetRules())) }},
		{Title: "OTHERWISE OUT", Value: egressDefault},
		{Title: "PORTS", Value: func(g group) string { return fmt.Sprint(g.GetStatus().GetPortCount()) }},
		{Title: "DESCRIPTION", Value: func(g group) string { return g.GetSpec().GetDescription() }},
		{Title: "AGE", Value: func(g group) string { return Age(g.GetMeta().GetCreateTime(), now()) }},
		{Title: "GENERATION", Wide: true, Value: generation},
		{Title: "PROJECT", Wide: true, Value: func(g group) string { return g.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(g group) string { return g.GetMeta().GetId() }},
		{Title: "MESSAGE", Wide: true, Value: func(g group) string { return g.GetStatus().GetMessage() }},
	}
}

func egressDefault(g *networkv1.SecurityGroup) string {
	if e := Enum(g.GetSpec().GetEgressDefault(), "EGRESS_DEFAULT_"); e != "" {
		return e
	}
	return "allow"
}

// generation is which one of a group is in force everywhere, of which is wanted.
func generation(g *networkv1.SecurityGroup) string {
	return fmt.Sprintf("%d/%d", g.GetStatus().GetObservedGeneration(), g.GetMeta().GetGeneration())
}

// RuleColumns are the columns of a table of rules.
func RuleColumns(name func(id string) string) []Column[*networkv1.SecurityRule] {
	type r = *networkv1.SecurityRule
	return []Column[r]{
		{Title: "DIRECTION", Value: func(x r) string { return rule.Direction(x.GetDirection()) }},
		{Title: "ALLOWS", Value: rule.Traffic},
		{Title: "IP", Value: rule.Versions},
		{Title: "FROM/TO", Value: func(x r) string { return rule.Remote(x, name) }},
		{Title: "DESCRIPTION", Value: func(x r) string { return x.GetDescription() }},
		{Title: "ID", Value: func(x r) string { return x.GetId() }},
	}
}

// SecurityGroup describes one group with its rules as a table.
func SecurityGroup(w io.Writer, g *networkv1.SecurityGroup, name, node func(id string) string, now time.Time) error {
	m, st := g.GetMeta(), g.GetStatus()
	var referring, behind []string
	for _, id := range st.GetPendingNodeIds() {
		behind = append(behind, node(id))
	}
	for _, id := range st.GetReferringSecurityGroupIds() {
		if id == m.GetId() {
			continue // itself
		}
		referring = append(referring, name(id))
	}
	fields := []Field{
		{"Name", m.GetName()},
		{"ID", m.GetId()},
		{"Project", m.GetProjectId()},
		{"Description", g.GetSpec().GetDescription()},
		{"Status", Enum(st.GetPhase(), "SECURITY_GROUP_PHASE_")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"In force", fmt.Sprintf("generation %d of %d", st.GetObservedGeneration(), m.GetGeneration())},
		{"Behind on", strings.Join(behind, ", ")},
		{"Ports", fmt.Sprint(st.GetPortCount())},
		{"Referred to by", strings.Join(referring, ", ")},
		{"Otherwise in", "deny"},
		{"Otherwise out", egressDefault(g)},
	}
	fields = append(append(fields, conditionFields(st.GetConditions())...), Field{"Labels", Labels(m.GetLabels())},
		Field{"Created", withAge(Time(m.GetCreateTime()), Age(m.GetCreateTime(), now))})
	if err := Describe(w, fields); err != nil {
		return err
	}
	if len(g.GetSpec().GetRules()) == 0 {
		_, err := fmt.Fprintln(w, "\nNo rules: nothing comes in.")
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return NewPrinter(w, RuleColumns(name), false).Print(g.GetSpec().GetRules())
}

func conditionFields(conditions []*metav1.Condition) []Field {
	var out []Field
	for _, c := range conditions {
		out = append(out, Field{"Condition " + c.GetType(), strings.Join(nonEmpty(Enum(c.GetStatus(), "CONDITION_STATUS_"), c.GetReason(), c.GetMessage()), ", ")})
	}
	return out
}
