{{- define "podgate.labels" -}}
app.kubernetes.io/name: podgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podgate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
