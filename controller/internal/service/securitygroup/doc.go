// Package securitygroup serves SecurityGroupService: what may reach ports, and what they may reach. Each project has a default group, made when it is first needed.
package securitygroup
