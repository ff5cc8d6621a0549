{{- define "stockaj.name" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "stockaj.labels" -}}
{{ include "stockaj.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* A duration of gateway.yaml in whole seconds, rounded up. */ -}}
{{- define "stockaj.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- if eq $unit "ms" }}{{ add (div $number 1000) 1 -}}
{{- else if eq $unit "s" }}{{ $number -}}
{{- else if eq $unit "m" }}{{ mul $number 60 -}}
{{- else if eq $unit "h" }}{{ mul $number 3600 -}}
{{- else }}{{ fail (printf "gateway.configuration: %q is not a duration that this chart can read" .) -}}
{{- end -}}
{{- end }}

{{- /* The port of an address of gateway.yaml. It must be 0.0.0.0, because the kubelet is outside the pod. */ -}}
{{- define "stockaj.port" -}}
{{- if not (hasPrefix "0.0.0.0:" .) }}{{ fail (printf "gateway.configuration: %q must be 0.0.0.0 and a port" .) }}{{ end -}}
{{- trimPrefix "0.0.0.0:" . -}}
{{- end }}
