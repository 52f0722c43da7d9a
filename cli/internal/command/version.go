package command

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/render"
)

type clientVersion struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
}

type agentVersion struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Status  string `json:"status"`
}

type versions struct {
	Client clientVersion  `json:"client"`
	Server *api.Info      `json:"server,omitempty"`
	Agents []agentVersion `json:"agents,omitempty"`
}

func (s *session) versionText() string {
	text := "lqctl " + s.Version
	if s.Commit != "" {
		text += " (" + s.Commit + ")"
	}
	return text
}

func (s *session) versionCommand() *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of client, controller and agents",
		Example: "  lqctl version\n  lqctl version --client",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: clientVersion{s.Version, s.Commit}}
			var err error
			if !clientOnly {
				err = s.askVersions(cmd, &v)
			}
			return errors.Join(s.printVersions(v), err)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "do not ask the controller")
	return cmd
}

func (s *session) askVersions(cmd *cobra.Command, v *versions) error {
	c, _, err := s.dial()
	if err != nil {
		return err
	}
	info, err := c.Info(cmd.Context())
	if err != nil {
		return err
	}
	v.Server = &info
	nodes, err := c.ListNodes(cmd.Context(), "")
	if err != nil {
		return err
	}
	for _, n := range nodes {
		v.Agents = append(v.Agents, agentVersion{
			Node: nameOf(n), Version: n.GetStatus().GetAgentVersion(), Status: render.Enum(n.GetStatus().GetPhase(), "NODE_PHASE_"),
		})
	}
	return nil
}

func (s *session) printVersions(v versions) error {
	if !s.tabular() {
		return s.printPlain(v)
	}
	fields := []render.Field{{Name: "Client", Value: withCommit(v.Client.Version, v.Client.Commit)}}
	if v.Server != nil {
		fields = append(fields, render.Field{Name: "Server", Value: withCommit(v.Server.Version, v.Server.Commit) + " at " + s.client.Server()})
	}
	for _, a := range v.Agents {
		version := a.Version
		if version == "" {
			version = "unknown"
		}
		fields = append(fields, render.Field{Name: "Agent " + a.Node, Value: version + ", " + a.Status})
	}
	return render.Describe(s.Out, fields)
}

func withCommit(version, commit string) string {
	if commit == "" {
		return version
	}
	return version + " (" + commit + ")"
}
